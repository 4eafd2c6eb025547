"""A pretended accelerator, for tests of placement on machines without a GPU.

    with pretend_gpu():
        model = model.to(GPU)
        model(x.to(GPU)).cpu()  # equals model(x)

Arithmetic on its tensors runs on the CPU, but they cannot be used where a
GPU's could not: together with tensors on the CPU, with a generator of the CPU,
or as NumPy arrays. Each such use raises an error of the type that torch raises
for a GPU. What torch allows is allowed: 0-d tensors of the CPU in elementwise
operations, ``copy_``, indices on the CPU, lengths of packed sequences.

How it works: a tensor on the device (``DeviceTensor``) is a wrapper around a
tensor on the CPU. A mode below autograd sees every operation, checks where its
tensors are, runs it on what they wrap, and wraps the results. A second mode
sees the calls of Python before that, for the few functions whose C++ code
makes or reads tensors without the dispatcher.

``GPU`` is the device "meta:1", always with its index, since autograd accepts
the device "meta" in every build of torch, and runs its backward passes in the
calling thread. Plain "meta" keeps its meaning.

Not pretended: speed, memory, streams, rounding, autocast (regions of it change
nothing), determinism, and operations or dtypes that a GPU lacks. The random
numbers of the device are those of the CPU's generator.
"""

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Mapping
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes,
)
from torch.utils._pytree import tree_map_only

GPU = torch.device("meta:1")
NAME = "cuda:0"  # in messages

# Arguments that may or must be on the CPU, by operation and argument.
_FREE_INDICES = {"index", "index_put", "_unsafe_index", "_index_put_impl"}
_ON_CPU = {
    "_pack_padded_sequence": "lengths",
    "_pad_packed_sequence": "batch_sizes",
    "_pack_padded_sequence_backward": "batch_sizes",
}
# Elementwise without the tag of torch: 0-d tensors of the CPU are scalars.
_ELEMENTWISE = {"masked_fill", "fill", "index_put", "_index_put_impl", "where"}
# Lazy operations mark their result, but these marks are not read below.
_EAGER = {
    "_conj": torch.ops.aten.conj_physical.default,
    "_neg_view": torch.ops.aten.neg.default,
    "_efficientzerotensor": torch.ops.aten.zeros.default,
}
_ANSWERS_ON_CPU = {"_local_scalar_dense", "equal", "is_same_size"}


def is_gpu(device) -> bool:
    """Tell whether a device, or its name, is the pretended one."""
    if device is None or isinstance(device, int):
        return False
    return torch.device(device) == GPU


class DeviceTensor(torch.Tensor):
    """Tensor on the pretended device; ``on_cpu`` holds its values."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, on_cpu):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            on_cpu.size(),
            strides=on_cpu.stride(),
            storage_offset=on_cpu.storage_offset(),
            dtype=on_cpu.dtype,
            layout=on_cpu.layout,
            device=GPU,
        )

    def __init__(self, on_cpu):
        self.on_cpu = on_cpu

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)

    def __repr__(self, *, tensor_contents=None):
        return f"{repr(self.on_cpu)[:-1]}, device='{NAME}')"

    def tolist(self):
        return self.on_cpu.tolist()

    def data_ptr(self):
        return self.on_cpu.data_ptr()

    def untyped_storage(self):
        return self.on_cpu.untyped_storage()

    def numpy(self, *, force=False):
        if force:
            return self.on_cpu.detach().numpy()
        raise TypeError(
            f"can't convert {NAME} device type tensor to numpy. Use "
            "Tensor.cpu() to copy the tensor to host memory first."
        )

    def __array__(self, *args, **kwargs):
        return self.numpy()

    def __dlpack__(self, *args, **kwargs):
        raise BufferError(f"the pretended {NAME} exports no memory.")

    def pin_memory(self, *args):
        raise RuntimeError(
            f"cannot pin a tensor on {NAME}: only dense CPU tensors can be "
            "pinned"
        )

    def __deepcopy__(self, memo):
        if id(self) in memo:
            return memo[id(self)]
        copy = DeviceTensor(self.on_cpu.clone())
        if isinstance(self, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, self.requires_grad)
        else:
            copy.requires_grad_(self.requires_grad)
        memo[id(self)] = copy
        return copy

    def __reduce_ex__(self, protocol):
        return _unpickle, (self.on_cpu.detach(),)


_CPUGenerator = torch.Generator


class _Generator(torch.Generator):
    """Replaces ``torch.Generator``, whose device the build may not have."""

    def __new__(cls, device="cpu"):
        if cls is _Generator and not is_gpu(device):
            return _CPUGenerator(device)
        return super().__new__(DeviceGenerator)


class DeviceGenerator(_Generator):
    """Generator of random numbers on the pretended device."""

    device = property(lambda self: GPU)


# --- Operations below autograd ---------------------------------------------


class _Dispatcher(TorchDispatchMode):
    """Sees every operation, also those that make the first tensors."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with self:
            return _run(func, args, kwargs or {})


class _Operation:
    """What the schema of an operation says about placement."""

    def __init__(self, func):
        arguments = func._schema.arguments
        self.name = func._schema.name.removeprefix("aten::")
        # Without the underscore of operations in place.
        self.plain = self.name.removesuffix("_")
        self.arguments = [a.name for a in arguments]
        self.written = [
            a.name for a in arguments if a.alias_info and a.alias_info.is_write
        ]
        self.is_view = any(
            r.alias_info and not r.alias_info.is_write
            for r in func._schema.returns
        )
        # 0-d tensors of the CPU count as scalars.
        self.takes_scalars = (
            torch.Tag.pointwise in func.tags
            or self.plain in _ELEMENTWISE
            or self.name.startswith("_foreach")
        )
        # Whether torch has it only as a series of others, whose parts say
        # more exactly what may be on which device.
        self.is_composite = torch._C._dispatch_has_kernel_for_dispatch_key(
            func.name(), "CompositeImplicitAutograd"
        )


_operation = functools.cache(_Operation)


def _run(func, args, kwargs):
    """Check an operation's placement, run it on the CPU, wrap the results."""
    operation = _operation(func)
    tensors = list(_tensors((*args, *kwargs.values())))
    on_gpu = any(isinstance(x, DeviceTensor) for x in tensors)
    device = kwargs.get("device")
    _check_strays(func, tensors)
    if not on_gpu and not is_gpu(device):
        if operation.is_composite and any(
            isinstance(x, torch.device) and is_gpu(x) for x in args
        ):
            return func.decompose(*args, **kwargs)  # such as `to`
        _check_generator(func, args, kwargs, on_gpu=False)
        with _disable_current_modes():
            return func(*args, **kwargs)
    if operation.is_composite:
        return func.decompose(*args, **kwargs)
    name, plain = operation.name, operation.plain
    _check_placement(func, operation, args, kwargs)
    to_gpu = on_gpu if device is None else is_gpu(device)
    if plain in ("copy", *_FREE_INDICES):
        to_gpu = isinstance(args[0], DeviceTensor)
    _check_generator(func, args, kwargs, to_gpu)
    cpu_args = _unwrapped(args)
    cpu_kwargs = {key: _unwrapped(value) for key, value in kwargs.items()}
    if is_gpu(device):
        cpu_kwargs["device"] = torch.device("cpu")
    with _disable_current_modes():
        result = _EAGER.get(name, func)(*cpu_args, **cpu_kwargs)
        if name == "_to_copy" and _same_memory(result, cpu_args[0]):
            # Another device has another memory.
            result = result.clone()
    if not to_gpu or name in _ANSWERS_ON_CPU:
        return result
    if name == "_pack_padded_sequence":
        return DeviceTensor(result[0]), result[1]
    if operation.written:
        return _written(func, operation, args, kwargs, result)
    if operation.is_view and not args[0].is_inference():
        # Inference mode makes no other views of a tensor from outside, either.
        with torch.inference_mode(False):
            return _wrapped(result)
    return _wrapped(result)


def _written(func, operation, args, kwargs, result):
    """Return what an operation in place, or with `out`, returns."""
    if torch.Tag.inplace_view in func.tags:
        # The shape of the wrapper changes like that of what it wraps.
        with _disable_current_modes(), no_dispatch():
            func(*args, **kwargs)
    named = dict(zip(operation.arguments, args)) | kwargs
    written = [named[name] for name in operation.written]
    for x in _tensors(written):
        if isinstance(x, DeviceTensor) and x.shape != x.on_cpu.shape:
            raise AssertionError(
                f"pretend_gpu: {func} changes a shape in place, which "
                "tests/pretend_gpu.py does not follow."
            )
    if isinstance(result, torch.Tensor):
        for x in _tensors(written):
            if isinstance(x, DeviceTensor) and x.on_cpu is result:
                return x
    if isinstance(result, (list, tuple)) and len(result) == len(written):
        return type(result)(written)
    return result if result is None else _wrapped(result)


def _tensors(values):
    """Yield the tensors of an operation's arguments."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _unwrapped(x):
    if isinstance(x, DeviceTensor):
        return x.on_cpu
    return type(x)(map(_unwrapped, x)) if isinstance(x, (list, tuple)) else x


def _wrapped(x):
    if isinstance(x, torch.Tensor):
        return DeviceTensor(x)
    return type(x)(map(_wrapped, x)) if isinstance(x, (list, tuple)) else x


def _same_memory(a, b):
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()


def _check_strays(func, tensors):
    for x in tensors:
        if not isinstance(x, DeviceTensor) and x.device == GPU:
            raise AssertionError(
                f"pretend_gpu: {func} got a tensor that was made without the "
                "dispatcher; tests/pretend_gpu.py has to replace the function "
                "that made it."
            )


def _check_placement(func, operation, args, kwargs):
    """Raise what torch raises where tensors are on different devices."""
    named = dict(zip(operation.arguments, args)) | kwargs
    must_be_on_cpu = named.pop(_ON_CPU.get(operation.plain), None)
    if isinstance(must_be_on_cpu, DeviceTensor):
        raise RuntimeError(
            f"'{_ON_CPU[operation.plain]}' argument should be a 1D CPU int64 "
            f"tensor, but got {must_be_on_cpu.dim()}D {NAME} tensor"
        )
    if operation.plain == "copy":
        return
    if operation.plain in _FREE_INDICES:
        indices = named.pop("indices")
        if not isinstance(named["self"], DeviceTensor) and any(
            isinstance(x, DeviceTensor) for x in indices
        ):
            raise RuntimeError(
                "indices should be either on cpu or on the same device as the "
                "indexed tensor (cpu)"
            )
    devices = set()
    for name, value in named.items():
        for x in _tensors([value]):
            if isinstance(x, DeviceTensor):
                devices.add(NAME)
            elif (
                x.dim() > 0
                or not operation.takes_scalars
                or name in operation.written
            ):
                devices.add("cpu")
    if len(devices) > 1:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at "
            f"least two devices, {NAME} and cpu! (in {func})"
        )


def _check_generator(func, args, kwargs, on_gpu):
    generators = (torch.Generator, _CPUGenerator)
    given = any(isinstance(x, generators) for x in (*args, *kwargs.values()))
    if given and _generator_on_gpu != on_gpu:
        wanted, got = ("cuda", "cpu") if on_gpu else ("cpu", "cuda")
        raise RuntimeError(
            f"Expected a '{wanted}' device type for generator but found "
            f"'{got}' (in {func})"
        )


# --- Calls above autograd --------------------------------------------------


_generator_on_gpu = False  # whether that of the present call is


class _PythonCalls(TorchFunctionMode):
    """Replaces calls whose C++ code passes the dispatcher by."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        generator = kwargs.get("generator")
        if generator is not None:
            # Below, only the generator's C++ part will be known.
            return _call_with_generator(func, args, kwargs, generator)
        if func in (torch.tensor, torch.as_tensor, torch.asarray):
            return _to_device(func, args, kwargs, kwargs.get("device"))
        if func in (torch.Tensor.new_tensor, torch.Tensor.new):
            device = kwargs.get("device", args[0].device)
            if is_gpu(device):
                args = (args[0].cpu(), *args[1:])
            return _to_device(func, args, kwargs, device)
        if func is torch.Tensor.cuda:
            return args[0].to(GPU)
        if func is torch.Tensor.pin_memory and args[0].device.type == "cpu":
            return args[0]
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            x, index, *value = args
            if isinstance(x, DeviceTensor):
                index = tuple(map(_as_index, _as_tuple(index)))
            return func(x, index, *value)
        return func(*args, **kwargs)


def _call_with_generator(func, args, kwargs, generator):
    global _generator_on_gpu
    before = _generator_on_gpu
    _generator_on_gpu = type(generator) is DeviceGenerator
    try:
        return func(*args, **kwargs)
    finally:
        _generator_on_gpu = before


def _to_device(func, args, kwargs, device):
    """Call a function that makes a tensor, then move the tensor."""
    if not isinstance(args[-1], torch.Tensor):  # a list may hold 0-d tensors
        args = tree_map_only(DeviceTensor, lambda x: x.on_cpu, args)
    if not is_gpu(device):
        return func(*args, **kwargs)
    requires_grad = kwargs.pop("requires_grad", False)
    kwargs.pop("device", None)
    x = func(*args, **kwargs)
    x = x if x.device == GPU else x.to(GPU)
    return x.requires_grad_() if requires_grad else x


def _as_tuple(index):
    return index if isinstance(index, tuple) else (index,)


def _as_index(index):
    """Make a tensor of a list or an array, as torch would on the device."""
    if isinstance(index, list) or type(index).__module__ == "numpy":
        return torch.as_tensor(index)
    return index


# --- Files -----------------------------------------------------------------


_loading_to = None  # `map_location` of the load that runs


def _unpickle(on_cpu):
    """Restore a tensor of the device; on the CPU where there is no device."""
    if _loading_to is None or not is_gpu(_loading_to):
        return on_cpu
    return on_cpu.to(GPU)


torch.serialization.add_safe_globals([_unpickle])


def _load(file, map_location=None, *, _torch_load=torch.load, **kwargs):
    """Replaces ``torch.load``; `map_location` may be the device."""
    global _loading_to
    before, _loading_to = _loading_to, GPU if map_location is None else None
    try:
        if not is_gpu(map_location):
            return _torch_load(file, map_location, **kwargs)
        loaded = _torch_load(file, "cpu", **kwargs)
    finally:
        _loading_to = before
    return tree_map_only(torch.Tensor, lambda x: x.to(GPU), loaded)


# --- Regions ---------------------------------------------------------------


class _NoAutocast(torch.amp.autocast):
    """Replaces autocast: on the device it is accepted, and does nothing."""

    def __init__(self, device_type, *args, **kwargs):
        if str(device_type).startswith("meta"):
            device_type, kwargs = "cpu", {**kwargs, "enabled": False}
            args = args[:1] if len(args) > 1 else args
        super().__init__(device_type, *args, **kwargs)


@contextlib.contextmanager
def pretend_gpu():
    """Let tensors and modules be moved to ``GPU`` inside a with statement."""
    swap = torch.__future__.get_swap_module_params_on_conversion()
    # A module's parameters stay the same objects when it is moved, as those
    # of a GPU do.
    torch.__future__.set_swap_module_params_on_conversion(True)
    replaced = {
        "torch.Generator": _Generator,
        "torch.load": _load,
        "torch.autocast": _NoAutocast,
        "torch.amp.autocast": _NoAutocast,
        "torch.cuda.synchronize": lambda *_: None,
        "torch.cuda.empty_cache": lambda: None,
    }
    with contextlib.ExitStack() as stack:
        stack.callback(
            torch.__future__.set_swap_module_params_on_conversion, swap
        )
        for name, replacement in replaced.items():
            stack.enter_context(mock.patch(name, replacement))
        stack.enter_context(_Dispatcher())
        stack.enter_context(_PythonCalls())
        yield GPU


# --- Comparison with the CPU -----------------------------------------------


def assert_same_on_gpu(run, *args, result_on="gpu", atol=1e-5):
    """Check that a function computes the same on the CPU and on the device.

    Arguments
    ---------
    run : callable
        Function of copies of ``args``, all on one device.
    *args : torch.Tensor, torch.nn.Module or any other
        What is moved to the device; also within lists, dictionaries and
        dataclasses. Other objects are passed as they are.
    result_on : str
        Where all tensors of the result have to be: "gpu", "cpu", or
        "anywhere".
    atol : float
        Largest difference.

    Returns
    -------
    object
        The result on the CPU.
    """
    torch.manual_seed(0)
    expected = run(*(_moved(x, "cpu") for x in args))
    with pretend_gpu():
        moved = [_moved(x, GPU) for x in args]
        torch.manual_seed(0)
        found = run(*moved)
        wanted = {"gpu": True, "cpu": False}.get(result_on)
        for x in _leaves(found):
            if isinstance(x, torch.Tensor) and wanted is not None:
                assert (x.device == GPU) == wanted, (
                    f"{tuple(x.shape)} is on {x.device}, not on {result_on}"
                )
        found = [_on_cpu(x) for x in _leaves(found)]
    wanted = list(_leaves(expected))
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted):
        if isinstance(one, torch.Tensor):
            other = other.detach()
            if not one.dtype.is_floating_point and not one.is_complex():
                assert torch.equal(one, other)
            else:
                torch.testing.assert_close(
                    one, other, atol=atol, rtol=atol, equal_nan=True
                )
        elif isinstance(one, float):
            assert abs(one - other) <= atol or one != one and other != other
        else:
            assert one == other
    return expected


def gradients(loss, module):
    """Return a loss and the gradients of a module's trainable parameters."""
    loss.backward()
    return loss, {
        name: parameter.grad
        for name, parameter in module.named_parameters()
        if parameter.grad is not None
    }


def _moved(x, device):
    """Copy a value, with all tensors and modules in it, to a device."""
    if isinstance(x, torch.nn.Module):
        return copy.deepcopy(x).to(device)
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return dataclasses.replace(
            x,
            **{
                field.name: _moved(getattr(x, field.name), device)
                for field in dataclasses.fields(x)
            },
        )
    if isinstance(x, torch.Tensor):
        return x.detach().clone().to(device).requires_grad_(x.requires_grad)
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(_moved(item, device) for item in x))
    if isinstance(x, (list, tuple)):
        return type(x)(_moved(item, device) for item in x)
    if isinstance(x, dict):
        return {key: _moved(value, device) for key, value in x.items()}
    return x


def _leaves(x):
    """Yield what lists, dictionaries and dataclasses hold."""
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        x = {f.name: getattr(x, f.name) for f in dataclasses.fields(x)}
    if isinstance(x, Mapping):
        x = list(x.values())
    if isinstance(x, (list, tuple)):
        for item in x:
            yield from _leaves(item)
    else:
        yield x


def _on_cpu(x):
    return x.detach().cpu() if isinstance(x, torch.Tensor) else x
