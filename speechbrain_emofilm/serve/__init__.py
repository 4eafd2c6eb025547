"""Server of ``emofilm serve``: an OpenAI-like interface and a web page."""
