"""Text anchors that fit a training run."""

from lg3d_core.errors import DataError, SettingsError
from lg3d_core.language.anchors_file import Anchors, find_equal, load_anchors, require_vocabulary
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.settings import FinetuneSettings, PretrainSettings
from lg3d_core.vocabulary import Vocabulary


def load_fitting_anchors(
    settings: PretrainSettings | FinetuneSettings, network: MinkUNet, vocabulary: Vocabulary
) -> Anchors:
    """Load the anchors of a run; narrower anchors are padded with zeros to the width of the network's features.

    Raises:
        DataError: The anchors are missing, damaged, of another vocabulary, or have two equal rows.
        SettingsError: The anchors are wider than the network's features, or were projected to fewer dimensions.
    """
    anchors = load_anchors(settings.anchors)
    require_vocabulary(anchors, vocabulary)
    equal = find_equal(anchors)
    if equal is not None:
        raise DataError(
            f"anchors {settings.anchors}: {equal[0]!r} and {equal[1]!r} have anchors of the same direction, so these "
            "classes cannot be distinguished: run lg3d anchors with another --encoder or --prompt"
        )
    anchors = anchors.padded(network.num_features)
    if anchors.dim != network.num_features:
        raise SettingsError(
            f"the anchors {settings.anchors} have {anchors.dim} dimensions, but features of network {settings.network} "
            f"have {network.num_features}: run lg3d anchors --dim {network.num_features}{anchors.encoder_option}"
        )
    return anchors
