"""The command `view`: one scene of a store, with a checkpoint's prediction, as a window, picture or page."""

from collections.abc import Callable
from pathlib import Path

from lg3d_core.errors import MissingDependencyError
from lg3d_core.evaluation.eval import find_classifier, require_classifier
from lg3d_core.evaluation.predictor import Predictor
from lg3d_core.files import require_file
from lg3d_core.inference.input import input_of_scene, require_scene
from lg3d_core.inference.objects import wants_objects
from lg3d_core.inference.predict import label_scan
from lg3d_core.progress import Progress
from lg3d_core.settings import ViewSettings
from lg3d_core.store.scene_store import SceneStore
from lg3d_core.viewing.asked import heat_of_scene
from lg3d_core.viewing.augmented import build_augmented_view
from lg3d_core.viewing.labelled import at_shown_vertices
from lg3d_core.viewing.layers import SceneView, build_view
from lg3d_core.viewing.page import write_page
from lg3d_core.viewing.picture import render_picture
from lg3d_core.viewing.server import serve_view
from lg3d_core.viewing.window import has_display, open_window


def view(settings: ViewSettings, progress: Progress, *, announce: Callable[[str], None] = lambda _: None) -> list[Path]:
    """Show a scene's colours, ground truth, prediction and errors, or a training sample, and return the written files.

    Without a picture or a page in the settings, a window opens; without a display, `<scene>.png` and `<scene>.html` are
    written to the working directory. With `serve`, the function returns when the user interrupts it.

    Args:
        settings: Settings of the command.
        progress: Receives all other messages.
        announce: Called with the path of each written file, and with the address of a served page.

    Raises:
        DataError: The store or the scene does not exist, or the port is in use.
        SettingsError: The scene does not have a layer, a text is empty, or a file cannot be written.
        CheckpointError: The checkpoint cannot be used, or none can compute the heat of a text.
        MissingDependencyError: A picture or window needs open3d, which is missing.
    """
    store = require_scene(settings.scene, settings.store, settings.vocabulary)
    require_file(settings.png, "--png")
    require_file(settings.html, "--html")
    if settings.augmented:
        if settings.checkpoint is not None:
            progress.note("a training sample is shown without a prediction: --checkpoint is ignored")
        if settings.heat:
            progress.note("a training sample is shown without heat: --heat is ignored")
        view = build_augmented_view(
            store,
            settings.scene,
            voxel_size=settings.voxel_size,
            instances=settings.instances,
            seed=settings.seed,
            progress=progress,
        )
    else:
        view = _view_as_it_is(store, settings, progress)
    return show_view(view, settings, progress, announce=announce)


def _view_as_it_is(store: SceneStore, settings: ViewSettings, progress: Progress) -> SceneView:
    """Return the view of a scene without augmentation, with a prediction if there is a checkpoint."""
    scene = store.read(settings.scene)
    prediction = objects = None
    path = find_classifier(settings.checkpoint, settings.runs, progress, final_relu=settings.final_relu)
    if path is None:
        progress.note(
            f"no fine-tuned run in {settings.runs}: showing colours and ground truth only (pass --checkpoint, such as "
            "shipped, for a prediction)"
        )
    else:
        predictor, info = Predictor.load(
            path,
            device=settings.device,
            backend=settings.backend,
            final_relu=settings.final_relu,
            vocabulary=store.vocabulary.digest,
        )
        fitting = SceneStore(settings.store, settings.vocabulary, preferred=info.vocabulary_digest)
        if fitting.vocabulary.digest != store.vocabulary.digest:
            store, scene = fitting, fitting.read(settings.scene)
        require_classifier(path, info, store.vocabulary)
        labelled = label_scan(
            predictor,
            store.vocabulary,
            input_of_scene(scene, store.vocabulary),
            objects=wants_objects(settings.objects, info, path, progress),
            min_points=settings.min_points,
            superpoints=settings.superpoints,
            progress=progress,
        )
        prediction, objects = at_shown_vertices(labelled)
    heat = heat_of_scene(settings, progress) if settings.heat else None
    return build_view(scene, store.vocabulary, prediction, heat=heat, objects=objects)


def show_view(
    view: SceneView, settings: ViewSettings, progress: Progress, *, announce: Callable[[str], None] = lambda _: None
) -> list[Path]:
    """Show the result of `build_view` as `view` does, and return the written files."""
    png, html = settings.png, settings.html
    if png is None and html is None and not settings.serve:
        if _opened_window(view, progress):
            return []
        png, html = Path(f"{view.scene_id}.png"), Path(f"{view.scene_id}.html")
    written = []
    if html is not None:
        write_page(view, html)
        written.append(html)
        announce(str(html))
    if png is not None:
        try:
            render_picture(view, png, layers=settings.layer or None)
        except MissingDependencyError as error:
            if settings.png is not None:
                raise
            progress.warn(f"cannot write a picture: {error}")
        else:
            written.append(png)
            announce(str(png))
    if settings.serve:
        with serve_view(view, progress, port=settings.port) as server:
            announce(server.address)
            server.wait()
    return written


def _opened_window(view: SceneView, progress: Progress) -> bool:
    """Show the scene in a window until it is closed, and return whether that was possible."""
    if not has_display():
        progress.note("no display: writing a picture and a page instead of opening a window")
        return False
    try:
        open_window(view, progress)
    except MissingDependencyError as error:
        progress.warn(f"cannot open a window: {error}")
        return False
    return True
