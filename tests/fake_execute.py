"""Stands for one step of a comparison: leaves made-up counts at once. `-m tests.fake_execute STEP.json PARENT PIPE`."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from lg3d_core.evaluation.instances import SceneMatches, score_instances
from lg3d_core.evaluation.packed_matches import pack_matches, unpack_matches
from lg3d_core.vocabulary import load_vocabulary


def main(step: dict[str, str], pipe: int) -> int:
    folder, settings = Path(step["folder"]), json.loads(step["settings"])
    if settings.get("learning_rate") == 7:
        return 3
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent.parent / "order.txt").open("a") as stream:
        stream.write(f"{step['kind']} {folder.name}\n")
    if settings.get("gamma") == 7:
        sys.stderr.write("error: this loss is not for me\n")
        return 1
    if settings.get("gamma") == 8:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            (folder / "waiting").touch()
            time.sleep(60)
        except KeyboardInterrupt:
            (folder / "saved").touch()
            return 130
    if settings.get("gamma") == 9:
        os.write(pipe, b"110/480 steps\n120/480 steps\n130")
        time.sleep(1)
        if settings.get("clip_norm") == 9:
            return 1
    if step["kind"] == "finetune":
        rng = np.random.default_rng(settings["seed"])
        index = json.loads((Path(settings["store"]) / "store.json").read_text())
        support = rng.integers(50, 100, size=(4, len(index["vocabulary"]["categories"])))
        correct = (support * (0.5 if settings["start"] == "scratch" else 0.75)).astype(np.int64)
        ids = [f"scene{k}" for k in range(4)]
        scores, arrays = {}, {}
        if settings["task"] == "instance":  # one object in each scene, found if the run was pre-trained
            found = [] if settings["start"] == "scratch" else [0]
            one = SceneMatches(*(np.array(own) for own in ([3], [3 for _ in found], found, found, found, found, found)))
            one = one._replace(confidence=one.confidence + 0.5, pair_iou=one.pair_iou + 0.72)
            arrays["matches"] = pack_matches([one] * 4)
            unpacked = unpack_matches(arrays["matches"], 4)
            scores["instances"] = score_instances(unpacked, load_vocabulary("scannet200")).to_dict()
        np.savez(folder / "scenes.npz", scene_ids=ids, correct=correct, support=support, predicted=support, **arrays)
        (folder / "scores.json").write_text(json.dumps(scores))
    (folder / "done.json").write_text("{}")
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[3])))
