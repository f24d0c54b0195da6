"""A loaded base model and folders of LoRA adapters in; one model out that computes with one of them, or with none.

All adapters lie beside the base's weights at once, so that a change between them moves nothing. What was computed before a
change (keys and values of prompts) belongs to the weights before it: whoever keeps such things forgets them.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selfalign.engines.serving import check_adapter, check_base
from selfalign.errors import StageError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Adapters:
    """A base model with its LoRA adapters put in, unmerged. Until `use` is called, the base computes alone."""

    def __init__(self, model: PreTrainedModel, adapters: Sequence[Path], base: str) -> None:
        """Put the adapters' layers into `model`, which stays where it is; `base` is the content digest of its folder.

        Raises DataError for a folder that holds no adapter, and for an adapter that was trained on another base.
        """
        for folder in adapters:
            check_adapter(folder)
            check_base(folder, base)
        self.model = model
        """Computes with what `use` was called with last."""
        self._names = {folder.resolve(): f"adapter_{number}" for number, folder in enumerate(adapters)}
        self._layers: Any = None
        from peft import PeftModel

        with warnings.catch_warnings():
            # peft asks transformers for a name that the next version drops: nothing that a user could act on.
            warnings.simplefilter("ignore", FutureWarning)
            for folder, name in self._names.items():
                if self._layers is None:
                    self._layers = PeftModel.from_pretrained(model, str(folder), adapter_name=name)  # type: ignore[arg-type]
                else:
                    self._layers.load_adapter(str(folder), adapter_name=name)
        if self._layers is not None:
            self._layers.eval()
        self.use(None)

    def use(self, adapter: Path | None) -> None:
        """Compute with this adapter from now on, or with the base alone. Raises StageError for one that was not loaded."""
        if self._layers is None and adapter is None:
            return
        if adapter is None:
            self._layers.base_model.disable_adapter_layers()
            return
        name = self._names.get(adapter.resolve())
        if name is None:
            raise not_opened(adapter, list(self._names))
        self._layers.base_model.enable_adapter_layers()
        self._layers.set_adapter(name, inference_mode=True)


def not_opened(adapter: Path, opened: Sequence[Path]) -> StageError:
    """The error for an adapter that an engine was not opened with."""
    there = ", ".join(map(str, opened)) or "none"
    return StageError(
        f"expected one of the adapters that the engine was opened with ({there}), found {adapter}; name it when the engine is "
        "opened"
    )
