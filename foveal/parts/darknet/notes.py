"""What of a cfg is not carried out, or not read as it is written: a sentence each, for the user. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ...errors import nearest
from .cfg import Section, read_sections
from .cfg_graph import layer_kind, read_net
from .layers import Convolutional

# ------------------------------------------------------------------------------ settings that are read, by layer
_CONVOLUTION = "batch_normalize filters size stride stride_x stride_y pad padding groups dilation activation"
_HEAD = "classes num anchors mask ignore_thresh scale_x_y iou_loss iou_normalizer obj_normalizer max_delta iou_thresh"
_SCALES = "classes num coords rescore softmax object_scale noobject_scale class_scale coord_scale"
_READ = {
    "net": "width height channels letter_box",
    "convolutional": f"{_CONVOLUTION} cbn antialiasing binary xnor share_index",
    "connected": "output batch_normalize activation",
    "local": "filters size stride pad activation",
    "maxpool": "size stride stride_x stride_y padding antialiasing maxpool_depth out_channels",
    "local_avgpool": "size stride stride_x stride_y padding",
    "route": "layers groups group_id",
    "shortcut": "from activation weights_type weights_normalization",
    "sam": "from activation",
    "scale_channels": "from activation scale_wh",
    "upsample": "stride scale",
    "reorg": "stride",
    "reorg3d": "stride reverse",
    "activation": "activation",
    "dropout": "probability",
    "softmax": "temperature",
    "crop": "crop_height crop_width noadjust",
    "region": f"{_SCALES} anchors thresh",
    "yolo": f"{_HEAD} new_coords objectness_smooth nms_kind beta_nms",
    "gaussian_yolo": f"{_HEAD} objectness_smooth nms_kind beta_nms uc_normalizer",
    "detection": f"{_SCALES} side sqrt",
}
# Settings of every layer that are read, or whose only supported value is checked
_EVERYWHERE = "onlyforward stopbackward dontload dontloadscales"

# What a layer has without the setting, which every published cfg states
_DEFAULTS: dict[str, dict[str, str]] = {
    "convolutional": {"size": "1", "stride": "1", "activation": "logistic"},
    "connected": {"activation": "logistic"},
    "local": {"stride": "1", "activation": "logistic"},
    "maxpool": {"size": "that of stride", "stride": "1"},
    "upsample": {"stride": "2"},
    "reorg": {"stride": "1"},
    "reorg3d": {"stride": "1"},
    "dropout": {"probability": "0.5"},
    "region": {"thresh": "0.5", "softmax": "0"},
    "yolo": {"ignore_thresh": "0.5"},
    "gaussian_yolo": {"ignore_thresh": "0.5"},
}

# ------------------------------------------------------ settings that change nothing, or whose one value is checked
_HARMLESS = {
    "net": "batch subdivisions inputs seen time_steps track optimized_memory workspace_size_limit_MB use_cuda_graph",
    "convolutional": "bin_output stream wait_stream flipped sway rotate stretch stretch_sway coordconv reverse angle",
    "route": "stream wait_stream",
    "shortcut": "alpha beta",
    "maxpool": "maxpool_zero_nonmax",
    "reorg": "reverse flatten extra",
    "softmax": "groups spatial tree noloss",
    "cost": "type scale ratio",
    "contrastive": "classes temperature yolo_layer cls_normalizer max_delta contrastive_neg_max steps",
    "crop": "flip angle saturation exposure shift",
    "region": "bias_match absolute log sqrt background tree map mask_scale classfix coords",
    "yolo": "cls_normalizer show_details max beta1 yolo_point",
    "gaussian_yolo": "cls_normalizer show_details max yolo_point new_coords beta1",
    "detection": "forced coords reorg",
}

# ---------------------------------------------------------------------- settings of training that are not carried out
_AUGMENTATION = "jitter random resize track_history_size sim_thresh dets_for_track dets_for_show track_ciou_norm"
_SCHEDULE = (
    "learning_rate learning_rate_min momentum decay burn_in max_batches max_epochs policy power step steps scale "
    "scales seq_scales gamma adam B1 B2 eps sgdr_cycle sgdr_mult ema_alpha loss_scale dynamic_minibatch "
    "sequential_subdivisions try_fix_nan weights_reject_freq equidistant_point badlabels_rejection_percentage "
    "num_sigmas_reject_badlabels max_chart_loss"
)
_IMAGES = (
    "angle aspect saturation exposure hue flip blur gaussian_noise mixup cutmix mosaic mosaic_bound max_crop min_crop "
    "augment_speed contrastive contrastive_jit_flip contrastive_color unsupervised label_smooth_eps resize_step "
    "attention adversarial_lr show_receptive_field"
)
_UPDATES = (
    "learning_rate dont_update burnin_update train_only_bn grad_centr clip dot assisted_excitation cbn "
    "dropblock dropblock_size_rel dropblock_size_abs"
)
_LOSSES = {  # setting: the value without effect, and what is done for others
    "truth_thresh": ("1", "boxes that overlap an object more learn nothing else"),
    "focal_loss": ("0", "every class entry weighs alike"),
    "label_smooth_eps": ("0", "classes are learned as 0 and 1"),
    "counters_per_class": ("", "classes weigh alike"),
    "iou_thresh_kind": ("iou", "iou_thresh compares IoUs"),
    "delta_normalizer": ("1", "the loss has its own weight"),
    "map": ("", "classes keep their numbers"),
    "embedding_layer": ("", "nothing is tracked"),
}


def cfg_notes(text: str, *, training: bool = False) -> list[str]:
    """The notes on a valid cfg; with ``training`` those on its training settings too."""
    net, sections = read_sections(text)
    every = [net, *sections]
    notes = [*_unknown(every), *_missing(sections), *_unnormalized(text), *_repeated(every), *_lists(sections)]
    if training:
        notes += _not_trained(net, sections)
    return notes


def _kind(section: Section) -> str:
    return "net" if section.kind in ("net", "network") else layer_kind(section.kind)


def _known(kind: str) -> set[str]:
    words = [_READ.get(kind, ""), _HARMLESS.get(kind, ""), _EVERYWHERE, _UPDATES, _AUGMENTATION, " ".join(_LOSSES)]
    if kind == "net":
        words += [_SCHEDULE, _IMAGES]
    return set(" ".join(words).split())


def _unknown(sections: Sequence[Section]) -> Iterator[str]:
    """Settings that no Darknet knows in their section: misspelled, in the wrong place, or of another layer."""
    found: dict[tuple[str, str], list[int]] = {}
    for section in sections:
        kind = _kind(section)
        unknown = [key for key in section.values if key not in _known(kind)]
        if len(unknown) > 2:
            where = f"line {section.values[unknown[0]][1]} [{kind}]: {', '.join(unknown)}"
            yield f"{where} are not settings of this layer and are ignored. Is a [section] line missing before it?"
            continue
        for key in unknown:
            found.setdefault((kind, key), []).append(section.values[key][1])
    for (kind, key), lines in found.items():
        hint = nearest(key, _READ.get(kind, "").split())
        yield f"{_lines(lines)} [{kind}]: {key} is not a setting of this layer and is ignored. {hint}".rstrip()


def _missing(sections: Sequence[Section]) -> Iterator[str]:
    found: dict[str, list[int]] = {}
    for section in sections:
        kind = _kind(section)
        defaults = dict(_DEFAULTS.get(kind, {}))
        if kind in ("convolutional", "local") and section.text("size", "1") != "1" and not section.has("padding"):
            defaults["pad"] = "0"
        for key, value in defaults.items():
            strided = key == "stride" and section.has("stride_x") and section.has("stride_y")
            if not section.has(key) and not strided:
                found.setdefault(f"[{kind}]: {key} is missing; Darknet's default, {value}, is used", []).append(
                    section.line
                )
    for what, lines in found.items():
        yield f"{_lines(lines)} {what}"


def _unnormalized(text: str) -> Iterator[str]:
    """Convolutions of a detector that have no norm where nearly all others have; those of a vector never have one."""
    net = read_net(text)
    activated = [
        (layer.section.line, layer.what.norm)
        for layer in net.layers
        if isinstance(layer.what, Convolutional)
        and layer.what.activation not in ("linear", "logistic")
        and layer.shape[1:] != (1, 1)
    ]
    without = [line for line, norm in activated if not norm]
    if net.heads and without and len(without) <= len(activated) / 5:
        what = "batch_normalize is missing, which the other activated convolutions have"
        yield f"{_lines(without)} [convolutional]: {what}"


def _repeated(sections: Sequence[Section]) -> Iterator[str]:
    """Settings given twice; three or more in a row are a layer whose ``[section]`` line is missing."""
    for section in sections:
        kind = _kind(section)
        read = [key for key in section.repeated if key in _READ.get(kind, "").split()]
        if len(read) > 2:
            first = min(section.repeated[key] for key in read)
            named = ", ".join(read)
            yield f"line {first} [{kind}]: {named} are set again and ignored. Is a [section] line missing before it?"
            continue
        for key in read:
            value, first = section.values[key]
            line = section.repeated[key]
            yield f"line {line} [{kind}]: {key} is set again and ignored; {key}={value} of line {first} counts"


def _lists(sections: Sequence[Section]) -> Iterator[str]:
    """Lists separated by blanks, and anchors that are not as many as ``num`` says."""
    found: dict[str, list[int]] = {}
    blanks = "has numbers without a comma between them, which are read as separate numbers; Darknet joins their digits"
    for section in sections:
        for key in ("layers", "from", "mask"):
            if section.separated(key):
                found.setdefault(f"{key} {blanks}", []).append(section.values[key][1])
        if not section.has("anchors") or not section.has("num"):
            continue
        number, line = section.integer("num"), section.values["anchors"][1]
        if section.spaced("anchors", 2 * number):
            found.setdefault(f"anchors {blanks}", []).append(line)
        pairs = len(section.pairs("anchors", number))
        highest = max((k + 1 for k in section.integers("mask", ())), default=0)
        if pairs > number:
            used = f"the first {max(number, highest)} are used" if pairs > max(number, highest) else "all are used"
            why = ", as mask needs them" if highest > number else ""
            found.setdefault(f"anchors has {pairs} pairs where num is {number}; {used}{why}", []).append(line)
    for what, lines in found.items():
        yield f"{_lines(lines)}: {what}"


def _not_trained(net: Section, sections: Sequence[Section]) -> Iterator[str]:
    settings = [key for key in net.values if key in f"{_SCHEDULE} batch subdivisions".split()]
    images = {key for key in net.values if key in _IMAGES.split() and net.text(key) not in ("0", "")}
    images |= {key for s in sections for key in s.values if key in ("jitter", "random", "resize")}
    if settings or images:
        yield (
            f"its schedule ({_some(settings)}) and augmentation ({_some(sorted(images))}) are not used; "
            "the recipe is `fit` and the options of train"
        )
    found: dict[str, list[int]] = {}
    for section in sections:
        if section.kind == "contrastive":
            found.setdefault("[contrastive] computes no loss", []).append(section.line)
        for key, (value, line) in section.values.items():
            if what := _not_carried_out(key, value):
                found.setdefault(what, []).append(line)
    for what, lines in found.items():
        yield f"{_lines(lines)}: {what}"


def _not_carried_out(key: str, value: str) -> str:
    """What is to be said of a training setting of a layer; "" where it has no effect, or is carried out."""
    without_effect, instead = _LOSSES.get(key, ("0" if key in _UPDATES.split() else value, ""))
    if key == "stopbackward":
        return "" if value in ("0", "1") else "stopbackward is carried out for 1 alone, not for a number of iterations"
    try:
        same = float(value) == float(without_effect)
    except ValueError:
        same = value == without_effect
    return "" if same else f"{key} is not carried out" + (f": {instead}" if instead else "")


def _lines(lines: Sequence[int]) -> str:
    shown = ", ".join(map(str, lines[:3])) + (f" and {len(lines) - 3} more" if len(lines) > 3 else "")
    return f"{'line' if len(lines) == 1 else 'lines'} {shown}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "") if names else "none"
