"""Text anchors that fit a training run."""

from lg3d_core.errors import SettingsError
from lg3d_core.language.anchors_file import Anchors, load_anchors, require_vocabulary
from lg3d_core.networks.minkunet import MinkUNet
from lg3d_core.settings import FinetuneSettings, PretrainSettings
from lg3d_core.vocabulary import Vocabulary


def load_fitting_anchors(
    settings: PretrainSettings | FinetuneSettings, network: MinkUNet, vocabulary: Vocabulary
) -> Anchors:
    """Load a run's anchors.

    Raises:
        DataError: They are missing, damaged, or of another vocabulary.
        SettingsError: They are not as wide as the network's features.
    """
    anchors = load_anchors(settings.anchors)
    require_vocabulary(anchors, vocabulary)
    if anchors.dim != network.num_features:
        raise SettingsError(
            f"the anchors {settings.anchors} are {anchors.dim}-d, network {settings.network} gives "
            f"{network.num_features}-d features: run lg3d anchors --dim {network.num_features}"
        )
    return anchors
