"""The pretended GPU refuses what a GPU refuses and computes what a CPU does."""

import contextlib
import copy
import io

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pretend_gpu import GPU, DeviceTensor, assert_same_on_gpu, pretend_gpu
from safetensors.torch import load, save
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

REPLACED = ("Generator", "load", "autocast")
ORIGINALS = [getattr(torch, name) for name in REPLACED]


@pytest.fixture(autouse=True)
def gpu():
    torch.manual_seed(0)
    with contextlib.ExitStack() as region:
        region.enter_context(pretend_gpu())
        yield region


def on_gpu(*shape):
    return torch.randn(*shape).to(GPU)


def ids(*values, device=GPU):
    return torch.tensor(values, device=device)


# --- What is refused --------------------------------------------------------

DEVICES = "Expected all tensors to be on the same device"
REFUSED = {
    "sum of both": (lambda: on_gpu(3) + torch.ones(3), DEVICES),
    "CPU first": (lambda: torch.ones(3) * on_gpu(3), DEVICES),
    "0-d tensor of the GPU": (lambda: torch.ones(3) * on_gpu(3).sum(), DEVICES),
    "comparison": (lambda: on_gpu(3) > torch.ones(3), DEVICES),
    "product": (lambda: on_gpu(2, 3) @ torch.ones(3, 2), DEVICES),
    "in place": (lambda: on_gpu(3).add_(torch.ones(3)), DEVICES),
    "in place on the CPU": (lambda: torch.ones(3).add_(on_gpu(3)), DEVICES),
    "in place on a scalar of the CPU": (
        lambda: torch.tensor(1.0).add_(on_gpu(3).sum()),
        DEVICES,
    ),
    "cat": (lambda: torch.cat([on_gpu(3), torch.ones(3)]), DEVICES),
    "stack of 0-d": (
        lambda: torch.stack([on_gpu(3).sum(), torch.tensor(1.0)]),
        DEVICES,
    ),
    "where": (lambda: torch.where(torch.ones(3) > 0, on_gpu(3), 0.0), DEVICES),
    "mask": (lambda: on_gpu(3).masked_fill(torch.ones(3) > 0, 0.0), DEVICES),
    "gather": (
        lambda: on_gpu(2, 3).gather(1, ids([0], [1], device="cpu")),
        DEVICES,
    ),
    "scatter": (
        lambda: on_gpu(2, 3).scatter(1, ids([0], [1]), torch.ones(2, 1)),
        DEVICES,
    ),
    "index_select": (
        lambda: on_gpu(3).index_select(0, ids(0, device="cpu")),
        DEVICES,
    ),
    "repeat_interleave": (
        lambda: on_gpu(2).repeat_interleave(ids(1, 2, device="cpu"), 0),
        DEVICES,
    ),
    "searchsorted": (
        lambda: torch.searchsorted(on_gpu(3), torch.ones(2)),
        DEVICES,
    ),
    "cross entropy": (
        lambda: F.cross_entropy(on_gpu(2, 3), ids(0, 1, device="cpu")),
        DEVICES,
    ),
    "embedding of CPU ids": (
        lambda: nn.Embedding(4, 2).to(GPU)(ids(1, device="cpu")),
        DEVICES,
    ),
    "embedding on the CPU": (lambda: nn.Embedding(4, 2)(ids(1)), DEVICES),
    "module on the CPU": (lambda: nn.Linear(3, 2)(on_gpu(1, 3)), DEVICES),
    "module on the GPU": (
        lambda: nn.Linear(3, 2).to(GPU)(torch.ones(1, 3)),
        DEVICES,
    ),
    "convolution": (lambda: nn.Conv1d(2, 2, 3)(on_gpu(1, 2, 9)), DEVICES),
    "norm": (lambda: nn.LayerNorm(3)(on_gpu(2, 3)), DEVICES),
    "attention": (
        lambda: F.scaled_dot_product_attention(
            *3 * [on_gpu(1, 2, 3, 4)], torch.ones(3, 3) > 0
        ),
        DEVICES,
    ),
    "recurrent state": (
        lambda: nn.GRU(3, 2).to(GPU)(on_gpu(4, 1, 3), torch.zeros(1, 1, 2)),
        "same device",
    ),
    "window of a Fourier transform": (
        lambda: torch.stft(
            on_gpu(400), 64, window=torch.ones(64), return_complex=True
        ),
        "stft input and window must be on the same device",
    ),
    "index of a CPU tensor": (
        lambda: torch.ones(3)[ids(0)],
        "indices should be either on cpu",
    ),
    "mask of a CPU tensor": (
        lambda: torch.ones(3)[on_gpu(3) > 0],
        "indices should be either on cpu",
    ),
    "values at an index": (
        lambda: on_gpu(3).__setitem__(ids(0, 1), torch.ones(2)),
        DEVICES,
    ),
    "GPU values at an index of the CPU": (
        lambda: torch.ones(3).__setitem__(ids(0, device="cpu"), on_gpu(1)),
        DEVICES,
    ),
    "generator of the CPU": (
        lambda: torch.rand(3, device=GPU, generator=torch.Generator()),
        "Expected a 'cuda' device type for generator but found 'cpu'",
    ),
    "generator of the CPU in place": (
        lambda: on_gpu(3).normal_(generator=torch.Generator()),
        "Expected a 'cuda' device type for generator but found 'cpu'",
    ),
    "multinomial": (
        lambda: torch.multinomial(
            on_gpu(3).softmax(0), 1, generator=torch.Generator()
        ),
        "Expected a 'cuda' device type for generator but found 'cpu'",
    ),
    "generator of the GPU": (
        lambda: torch.rand(3, generator=torch.Generator(device=GPU)),
        "Expected a 'cpu' device type for generator but found 'cuda'",
    ),
    "lengths on the GPU": (
        lambda: pack_padded_sequence(on_gpu(3, 2, 4), ids(3, 2)),
        "'lengths' argument should be a 1D CPU int64 tensor",
    ),
    "pinned memory": (lambda: on_gpu(3).pin_memory(), "only dense CPU tensors"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name):
    act, message = REFUSED[name]
    with pytest.raises(RuntimeError, match=message):
        act()


@pytest.mark.parametrize(
    "act",
    [
        lambda x: x.numpy(),
        lambda x: x.detach().numpy(),
        lambda x: np.asarray(x),
        lambda x: np.stack([x]),
        lambda x: x * np.ones(3),
    ],
)
def test_numpy_cannot_read_its_memory(act):
    with pytest.raises(TypeError, match="Use Tensor.cpu()"):
        act(on_gpu(3))


@pytest.mark.parametrize("grad_mode", [torch.no_grad, torch.inference_mode])
def test_is_refused_without_gradients_too(grad_mode):
    layer = nn.Linear(3, 2)
    x = on_gpu(1, 3)
    with grad_mode(), pytest.raises(RuntimeError, match=DEVICES):
        layer(x)


def test_a_gradient_from_the_cpu_is_refused():
    layer = nn.Linear(3, 2).to(GPU)
    with pytest.raises(RuntimeError, match="device"):
        layer(on_gpu(1, 3)).backward(torch.ones(1, 2))


def test_arrays_are_tensors_of_the_cpu():
    with pytest.raises(RuntimeError, match=DEVICES):
        on_gpu(3) + torch.from_numpy(np.ones(3))
    assert (on_gpu(3) + torch.from_numpy(np.ones(3)).to(GPU)).is_cuda


# --- What is allowed --------------------------------------------------------

ALLOWED = {
    "scalars": lambda: on_gpu(3) * 2.0,
    "0-d tensor of the CPU": lambda: on_gpu(3) * torch.tensor(2.0),
    "0-d tensor of the CPU first": lambda: torch.tensor(2.0) - on_gpu(3),
    "masked_fill by one": lambda: on_gpu(3).masked_fill(
        on_gpu(3) > 0, torch.tensor(0.0)
    ),
    "copy_": lambda: on_gpu(3).copy_(torch.ones(3)),
    "slice": lambda: _set(on_gpu(3, 3), 0, torch.ones(3)),
    "index of the CPU": lambda: on_gpu(3)[ids(0, 2, device="cpu")],
    "mask of the CPU": lambda: on_gpu(3)[torch.ones(3) > 0],
    "list as index": lambda: on_gpu(3)[[0, 2]],
    "array as index": lambda: on_gpu(3)[np.array([0, 2])],
    "0-d tensor at an index": lambda: _set(
        on_gpu(3), ids(0, device="cpu"), torch.tensor(1.0)
    ),
    "to another tensor's": lambda: torch.ones(3).to(on_gpu(1)),
    "cuda()": lambda: torch.ones(3).cuda(),
    "tensor": lambda: torch.tensor([1.0, 2.0], device=GPU),
    "tensor of 0-d tensors": lambda: torch.tensor(
        [on_gpu(3).sum(), 1.0], device=GPU
    ),
    "as_tensor": lambda: torch.as_tensor(np.ones(3), device="meta:1"),
    "new_tensor": lambda: on_gpu(3).new_tensor([1, 2]),
    "new_zeros": lambda: on_gpu(3).new_zeros(2),
    "like": lambda: torch.zeros_like(torch.ones(3), device=GPU),
    "generator of the GPU": lambda: torch.rand(
        3, device=GPU, generator=torch.Generator(GPU).manual_seed(3)
    ),
    "default device": lambda: _with_default_device(),
}


def _set(x, index, value):
    x[index] = value
    return x


def _with_default_device():
    with torch.device(GPU):
        return torch.zeros(2) + torch.tensor([1.0, 2.0])


@pytest.mark.parametrize("name", ALLOWED)
def test_is_allowed(name):
    x = ALLOWED[name]()
    assert isinstance(x, DeviceTensor) and x.device == GPU
    assert x.is_cuda and not x.is_meta
    assert (x + 1).cpu().device.type == "cpu"


def test_only_itself_is_the_device():
    assert torch.zeros(3, device="meta").is_meta
    assert type(torch.zeros(3)) is torch.Tensor
    assert torch.Generator().device.type == "cpu"
    assert torch.Generator(GPU).device == GPU


def test_values_can_be_read():
    x = torch.tensor([1.0, 2.0], device=GPU)
    assert x.tolist() == [1.0, 2.0]
    assert float(x.sum()) == x.sum().item() == 3.0
    assert bool((x > 0).all()) and x.equal(x.clone())
    assert x.numpy(force=True).tolist() == [1.0, 2.0]
    assert repr(x) == "tensor([1., 2.], device='cuda:0')"
    assert [int(item) for item in x] == [1, 2]


def test_cpu_memory_can_be_pinned():
    assert torch.ones(3).pin_memory().device.type == "cpu"


def test_a_copy_on_the_cpu_is_another_memory():
    x = on_gpu(3)
    y = x.cpu()
    y.zero_()
    assert x.abs().sum() > 0
    z = torch.ones(3)
    z.to(GPU).zero_()
    assert z.sum() == 3


def test_views_share_memory_and_change_in_place():
    x = on_gpu(2, 3)
    x[0].zero_()
    assert x[0].abs().sum() == 0
    x.unsqueeze_(0).transpose_(1, 2)
    assert x.shape == (1, 3, 2) == (x + 1).shape == x.cpu().shape


def test_out_is_written_and_returned():
    out = on_gpu(3)
    assert torch.add(on_gpu(3), 1, out=out) is out
    values, places = on_gpu(1), torch.zeros(1, dtype=torch.long, device=GPU)
    found = torch.max(on_gpu(1, 3), 1, out=(values, places))
    assert values.equal(found[0]) and places.equal(found[1])


def test_views_of_other_tensors_in_inference_mode():
    x = on_gpu(2, 3)
    with torch.inference_mode():
        y = torch.zeros_like(x[:, :2])
        y[0] = x[1, :2]
        assert y[0].equal(x[1, :2]) and y.is_inference()


# --- Modules ----------------------------------------------------------------


def test_a_moved_module_keeps_its_parameters():
    layer = nn.Linear(3, 2)
    weight = layer.weight
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    layer.to(GPU)
    assert layer.weight is weight and weight.device == GPU
    assert isinstance(layer.weight, nn.Parameter)
    layer(on_gpu(1, 3)).sum().backward()
    assert layer.weight.grad.device == GPU
    before = layer.weight.tolist()
    optimizer.step()
    assert layer.weight.tolist() != before
    assert layer.cpu().weight is weight and weight.device.type == "cpu"


def test_a_copied_module_is_another():
    layer = nn.Linear(3, 2).to(GPU)
    other = copy.deepcopy(layer)
    nn.init.zeros_(other.weight)
    assert other.weight.device == GPU and other.weight.requires_grad
    assert layer.weight.abs().sum() > 0


@pytest.mark.parametrize("where", ["cpu", GPU, None])
def test_what_is_saved_is_loaded_to_any_device(where):
    layer = nn.Linear(3, 2).to(GPU)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    state = torch.load(file, where, weights_only=True)
    wanted = "cpu" if where == "cpu" else "meta"
    assert {x.device.type for x in state.values()} == {wanted}
    other = nn.Linear(3, 2).to(GPU)
    other.load_state_dict(state)
    assert other.weight.equal(layer.weight)


def test_what_is_saved_on_the_cpu_is_loaded_to_the_device():
    file = io.BytesIO()
    torch.save({"a": torch.ones(3)}, file)
    for where, device in ((GPU, "meta"), ("cpu", "cpu"), (None, "cpu")):
        file.seek(0)
        assert torch.load(file, where)["a"].device.type == device


def test_safetensors_holds_its_values():
    weight = on_gpu(2, 3)
    assert load(save({"weight": weight}))["weight"].equal(weight.cpu())


def test_outside_of_the_region_everything_is_as_before(gpu):
    inside = [getattr(torch, name) for name in REPLACED]
    x = on_gpu(3)
    gpu.close()
    assert [getattr(torch, name) for name in REPLACED] == ORIGINALS
    assert not set(inside) & set(ORIGINALS)
    assert torch._C._len_torch_dispatch_stack() == 0
    assert torch.zeros(3, device="meta:1").is_meta
    assert x.cpu().device.type == "cpu"  # as if the GPU were still there


# --- What it computes -------------------------------------------------------


def packed(gru, x, lengths):
    lengths = lengths.cpu()
    sequence = pack_padded_sequence(x, lengths, True, enforce_sorted=False)
    return pad_packed_sequence(gru(sequence)[0], batch_first=True)[0]


def spectrum(x, window):
    spectrum = torch.stft(x, 64, 16, window=window, return_complex=True)
    return torch.istft(spectrum, 64, 16, window=window), spectrum.abs()


def trained(layer, x):
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        F.dropout(layer(x), 0.5).square().mean().backward()
        nn.utils.clip_grad_norm_(layer.parameters(), 0.1)
        optimizer.step()
    return dict(layer.named_parameters())


def autocast(layer, x):
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=False):
        return layer(x)


COMPUTED = {
    "layers": (
        lambda *args: nn.Sequential(*args[:-1])(args[-1]),
        nn.Linear(4, 6),
        nn.GELU(),
        nn.LayerNorm(6),
        torch.randn(2, 5, 4),
    ),
    "convolutions": (
        lambda a, b, x: b(a(x)),
        nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 8, 3, padding=1)),
        nn.ConvTranspose1d(8, 2, 4, 2),
        torch.randn(2, 4, 9),
    ),
    "recurrent": (
        packed,
        nn.GRU(4, 3, batch_first=True, bidirectional=True),
        torch.randn(2, 5, 4),
        torch.tensor([3, 5]),
    ),
    "lstm": (
        lambda lstm, x: lstm(x),
        nn.LSTM(4, 3, 2, batch_first=True),
        torch.randn(2, 5, 4),
    ),
    "transformer": (
        lambda layer, x: layer(x),
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(),
        torch.randn(2, 5, 8),
    ),
    "fourier": (spectrum, torch.randn(2, 400), torch.hann_window(64)),
    "training": (trained, nn.Linear(4, 3), torch.randn(5, 4)),
    "autocast": (autocast, nn.Linear(4, 3), torch.randn(5, 4)),
    "draws": (
        lambda x: [torch.rand_like(x), torch.randperm(9, device=x.device)],
        torch.zeros(3),
    ),
    "sorting": (
        lambda x: [x.sort(0), x.unique(return_inverse=True), x.topk(2)],
        torch.randn(4, 3),
    ),
    "shapes decided by values": (
        lambda x: [x.nonzero(), x[x > 0], x.tensor_split([1, 2])],
        torch.randn(4, 3),
    ),
    "second derivative": (
        lambda x: torch.autograd.grad(
            torch.autograd.grad((x**3).sum(), x, create_graph=True)[0].sum(), x
        ),
        torch.randn(3, requires_grad=True),
    ),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_results_equal_the_cpus(name):
    assert_same_on_gpu(*COMPUTED[name])


def test_a_difference_is_found():
    with pytest.raises(AssertionError):
        assert_same_on_gpu(lambda x: x + (x.device == GPU), torch.ones(3))
    with pytest.raises(AssertionError, match="is on cpu, not on gpu"):
        assert_same_on_gpu(lambda x: x.cpu(), torch.ones(3))
