"""An attack whose errors are sentences: what it raises, and a return value that is no image of the right kind."""

import inspect
import traceback
from typing import Final

import numpy as np

from perturb.attacks.base import Attack
from perturb.attacks.observer import AttackStopped
from perturb.models.classifier import Classifier
from perturb.schemas.bounds import LEVELS, Bounds
from perturb.schemas.errors import AttackError
from perturb.schemas.image import Pixels

#: How every attack is called.
SIGNATURE: Final = "attack(classifier, pixels, label, bounds, *, deadline, seed)"


class CheckedAttack:
    """An attack of which every return value is uint8 (H, W, 3), of the shape of the clean image.

    The attack receives a copy of the clean image, so that it may write into it.
    """

    def __init__(self, name: str, attack: Attack):
        self._name = name
        self._attack = attack

    def __call__(
        self, classifier: Classifier, pixels: Pixels, label: int, bounds: Bounds, *, deadline: float, seed: int
    ) -> Pixels:
        """Attack the classifier; see `perturb.attacks.base.Attack`.

        Raises AttackError when the attack raises anything but KeyboardInterrupt, SystemExit included, and when it
        returns something else than the perturbed image.
        """
        try:
            answer = self._attack(classifier, pixels.copy(), label, bounds, deadline=deadline, seed=seed)
        except (KeyboardInterrupt, AttackStopped):
            raise
        # An attack that calls sys.exit() must not end the miner.
        except BaseException as error:
            raise AttackError(f"attack {self._name!r} raised {described(error)}") from error
        return checked_answer(self._name, answer, pixels)


def described(error: BaseException) -> str:
    """Return type, message, file and line of an exception that other code raised, as part of a sentence."""
    text = " ".join(str(error).split())
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    # The line of a SyntaxError is in its message; its last frame is in the import system.
    return (
        said if isinstance(error, SyntaxError) or not frames else f"{said} ({frames[-1].filename}:{frames[-1].lineno})"
    )


def checked_answer(name: str, answer: object, clean: Pixels) -> Pixels:
    """Return `answer`, what attack `name` returned for `clean`. Raises AttackError unless it is uint8 of that shape."""
    wanted = f"return the perturbed image as a numpy array, uint8 {clean.shape}"
    if not isinstance(answer, np.ndarray):
        raise AttackError(f"attack {name!r} returned {_kind(answer)}; {wanted}{_cure_of_type(answer)}")
    if answer.dtype != np.uint8:
        raise AttackError(f"attack {name!r} returned {_array(answer)}; {wanted}{_cure_of_dtype(answer)}")
    if answer.shape != clean.shape:
        raise AttackError(f"attack {name!r} returned {_array(answer)}; {wanted}{_cure_of_shape(answer, clean)}")
    return np.asarray(answer)


def check_signature(attack: object) -> str | None:
    """Return why `attack` cannot be called as an attack is, or None."""
    if not callable(attack):
        return f"is of type {type(attack).__name__}, not a function"
    if inspect.isclass(attack):
        return "is a class; name a function, or an instance that can be called"
    if inspect.iscoroutinefunction(attack) or inspect.isgeneratorfunction(attack):
        return "is an async function or a generator; name a plain function that returns the image"
    try:
        inspect.signature(attack).bind(*[None] * 4, deadline=None, seed=None)
    except TypeError as error:
        return f"cannot be called as {SIGNATURE}: {error}"
    except ValueError:
        pass  # Functions of compiled modules may have no signature to look at.
    return None


def _kind(answer: object) -> str:
    if answer is None:
        return "None"
    if isinstance(answer, tuple | list):
        return f"a {type(answer).__name__} of {len(answer)}"
    return f"an object of type {type(answer).__module__}.{type(answer).__qualname__}"


def _array(answer: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> str:
    numbers = answer.size and (np.issubdtype(answer.dtype, np.integer) or np.issubdtype(answer.dtype, np.floating))
    values = f" with values {answer.min():g} to {answer.max():g}" if numbers else ""
    return f"{answer.dtype} {answer.shape}{values}"


def _cure_of_type(answer: object) -> str:
    if answer is None:
        return ", also where nothing flipped"
    if isinstance(answer, tuple | list):
        return ", without anything beside it"
    # Tensors of PyTorch, on any device and with or without a gradient.
    if hasattr(answer, "detach"):
        return ": answer.detach().cpu().numpy()"
    return ": np.asarray(answer)" if hasattr(answer, "__array__") or hasattr(answer, "__array_interface__") else ""


def _cure_of_dtype(answer: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> str:
    if not answer.size or not (np.issubdtype(answer.dtype, np.integer) or np.issubdtype(answer.dtype, np.floating)):
        return ""
    low, high = float(answer.min()), float(answer.max())
    if not 0 <= low <= high <= LEVELS:
        return f", values within 0 to {LEVELS}: clip them first"
    if np.issubdtype(answer.dtype, np.integer):
        return ": answer.astype(np.uint8)"
    return ": np.rint(answer * 255).astype(np.uint8)" if high <= 1 else ": np.rint(answer).astype(np.uint8)"


def _cure_of_shape(answer: Pixels, clean: Pixels) -> str:
    height, width, channels = clean.shape
    if answer.shape == (channels, height, width):
        return ": answer.transpose(1, 2, 0), channels last"
    if answer.shape == (1, height, width, channels):
        return ": answer[0], not a batch"
    if answer.shape == (1, channels, height, width):
        return ": answer[0].transpose(1, 2, 0), channels last and not a batch"
    return ", the shape of the clean image"
