"""Which checkpoint made the validation predictions: nnU-Net itself writes that down nowhere."""

import json
import os
from pathlib import Path
from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunet_attn.evaluation.results import CHECKPOINT_FILE

_FINAL = "checkpoint_final.pth"


class NotesCheckpoint(nnUNetTrainer):
    """Notes beside the validation predictions which checkpoint made them: the final one, or by `--val_best` the best.

    `nnUNetv2_train --val_best` writes to the folder of the usual validation, with nothing to tell the two apart.
    """

    _predicts = _FINAL

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Load a checkpoint as nnU-Net does, and remember which one."""
        super().load_checkpoint(filename_or_checkpoint)
        if isinstance(filename_or_checkpoint, str):
            self._predicts = Path(filename_or_checkpoint).name

    def on_train_end(self) -> None:
        """End a training as nnU-Net does: what it leaves is the final checkpoint, wherever it was continued from."""
        super().on_train_end()
        self._predicts = _FINAL

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Validate as nnU-Net does, and note the checkpoint when all is predicted."""
        if self.local_rank == 0:
            self._note().unlink(missing_ok=True)
        super().perform_actual_validation(save_probabilities)
        if self.local_rank == 0:
            note = self._note()
            partial = note.with_name(f".{note.name}.part")
            partial.write_text(json.dumps({"checkpoint": self._predicts}) + "\n", encoding="utf-8")
            os.replace(partial, note)

    def _note(self) -> Path:
        return Path(str(self.output_folder)) / "validation" / CHECKPOINT_FILE
