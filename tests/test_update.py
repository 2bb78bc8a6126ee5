"""Updates: schema, files, payload."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from tallystick import frame, update

TENSORS = {
    "b": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a": np.arange(3).astype(ml_dtypes.bfloat16),
    "steps": np.array(7),
    "empty": np.empty((0, 3), np.float32),
    "c": np.ones(5, np.float32),
}


def test_arrays_a_frame_and_files_of_them_are_the_same_update(tmp_path):
    in_memory = update.open_update(TENSORS)
    encoded = b"".join(in_memory.payload())
    assert len(encoded) == in_memory.size == frame.plain_size(in_memory.schema)
    (tmp_path / "u.tsf").write_bytes(encoded)
    update.write_safetensors(tmp_path / "u.safetensors", TENSORS)
    for source in (encoded, tmp_path / "u.tsf", tmp_path / "u.safetensors"):
        with update.open_update(source) as opened:
            assert opened.schema == in_memory.schema
            for name, array in TENSORS.items():
                assert opened.array(name).tobytes() == array.tobytes()
