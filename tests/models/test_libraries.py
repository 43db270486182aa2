"""Networks of timm and of transformers, with random weights in local files."""

import math
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image
from torch.testing import assert_close

from tta_server.adapters import create
from tta_server.models import Custom, Preprocess, load
from tta_server.models.sources import find

SMALL = Preprocess((64, 64))


def picture(width: int = 301, height: int = 260) -> Image.Image:
    return Image.frombytes("RGB", (width, height), np.random.default_rng(0).bytes(width * height * 3))


def drawn(name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=5).eval()
    for key, tensor in module.state_dict().items():
        if key.endswith(("running_mean", "running_var")):
            tensor.uniform_(0.2, 1)
    return module


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "mobilenetv3_small_050"])
def test_a_network_of_timm_answers_as_timms_own_and_learns(name, tmp_path):
    module = drawn(name)
    torch.save(module.state_dict(), tmp_path / "w.pth")
    x = torch.rand(4, 3, 64, 64)

    model = load(f"timm/{name}", weights=tmp_path / "w.pth", custom=Custom(classes=5, preprocess=SMALL))

    with torch.no_grad():
        assert_close(model.backbone.forward(x).logits, module(x), atol=1e-4, rtol=1e-4)
    assert model.backbone.spec.name == name
    tent = create("tent", lr=0.1)
    step = tent.adapt(model.backbone, tent.init(model.backbone), x)
    assert step.scalars["accepted"]


def test_what_follows_in_a_norm_of_timm_is_kept_in_training_mode_too(tmp_path):
    module = drawn("test_efficientnet")
    torch.save(module.state_dict(), tmp_path / "w.pth")
    model = load("timm/test_efficientnet", weights=tmp_path / "w.pth", custom=Custom(classes=5, preprocess=SMALL))
    x = torch.rand(4, 3, 64, 64)
    for layer in module.modules():
        layer.training = isinstance(layer, torch.nn.BatchNorm2d)

    with torch.no_grad():
        assert_close(model.backbone.forward(x, statistics="batch").logits, module(x), atol=1e-4, rtol=1e-4)


def test_every_mean_and_deviation_that_timm_publishes_is_taken():
    published = {(config.mean, config.std) for config in map(timm.get_pretrained_cfg, timm.list_pretrained())}

    for mean, std in published:
        Preprocess((8, 8), mean=mean, std=std)
    assert len(published) > 3


@pytest.mark.parametrize(
    "name",
    [
        "resnet50",
        "resnet50.tv_in1k",
        "mobilenetv3_large_100.miil_in21k",
        "convnext_atto",
        "vit_tiny_patch16_224",
        "tf_efficientnet_b0.ap_in1k",
        "dm_nfnet_f0",
    ],
)
def test_the_preprocessing_of_a_network_of_timm_is_timms_own_for_these_weights(name):
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    published = timm.data.create_transform(**config)(picture())
    preprocess = find(f"timm/{name}").preprocess

    pixels = torch.from_numpy(preprocess(picture())).float() / 255

    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
    assert_close((pixels - mean) / std, published, atol=1e-6, rtol=0)


def test_images_for_all_weights_that_timm_names_are_prepared_as_it_does_or_the_log_says_so():
    kinds = {}
    for name in timm.list_pretrained():
        config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
        kinds.setdefault(str(config), (name, config))

    for name, config in kinds.values():
        found, (_, *size) = find(f"timm/{name}"), config["input_size"]
        made, cut = found.preprocess, tuple(math.floor(side / config["crop_pct"]) for side in size)
        if config["crop_mode"] not in ("center", "squash") or config["crop_pct"] > 1:
            assert "with a border" in found.caution
            continue
        assert not found.caution
        assert (made.size, made.mean, made.std) == (tuple(size), config["mean"], config["std"]), name
        assert made.interpolation == config["interpolation"], name
        assert made.resize == (cut if config["crop_mode"] == "squash" else max(cut)), name


def test_the_tag_of_weights_says_how_many_classes_there_are_and_how_large_images_are():
    with torch.device("meta"):
        network = find("timm/mobilenetv3_large_100.miil_in21k").build(None)
        larger = find("timm/deit3_small_patch16_384.fb_in1k").build(7)

    assert network.classifier.out_features == 11221
    assert larger(torch.empty(1, 3, 384, 384, device="meta")).shape == (1, 7)


def test_a_name_without_a_tag_is_taken_for_the_usual_weights_and_the_log_says_which_are_prepared_for_otherwise():
    found = find("timm/resnet50")

    assert "as for 'resnet50.a1_in1k'; if the weights are" in found.caution
    assert "serve 'timm/resnet50.TAG': images are prepared otherwise for resnet50" in found.caution
    assert "resnet50.tv_in1k" in found.caution
    assert found.preprocess == find("timm/resnet50.a1_in1k").preprocess != find("timm/resnet50.tv_in1k").preprocess
    assert find("timm/resnet50.tv_in1k").caution == find("timm/mobilenetv3_small_050").caution == ""


def test_a_name_that_timm_does_not_have_is_refused_with_near_ones():
    with pytest.raises(ValueError, match="timm has no network 'resnet19'; see timm"):
        find("timm/resnet19.tv_in1k")
    with pytest.raises(ValueError, match="timm has no network 'efficientnet_b'; it has "):
        find("timm/efficientnet_b")
    with pytest.raises(ValueError, match="timm has no weights 'mine' of 'resnet50'; it has a1_in1k, "):
        find("timm/resnet50.mine")


CONFIGURATIONS = {
    "resnet": transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
    "vit": transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=64
    ),
    "convnext": transformers.ConvNextConfig(hidden_sizes=[8, 16, 16, 16], depths=[1, 1, 1, 1]),
}


@pytest.mark.parametrize("kind", CONFIGURATIONS)
def test_a_folder_of_hugging_face_answers_as_its_own_classifier_without_a_connection(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = CONFIGURATIONS[kind]
    config.num_labels = 3
    config.id2label = {0: "cat", 1: "dog", 2: "horse"}
    module = transformers.AutoModelForImageClassification.from_config(config).eval()
    module.save_pretrained(tmp_path)
    x = torch.rand(2, 3, 64, 64)

    model = load(f"hf/{tmp_path}", custom=Custom(preprocess=SMALL))

    with torch.no_grad():
        assert_close(model.backbone.forward(x).logits, module(x).logits, atol=1e-5, rtol=1e-4)
    assert model.labels == ("cat", "dog", "horse")
    assert model.backbone.findings.remarks["logits"] == "entry 'logits' of what it returns"


PROCESSORS = {
    "vit": transformers.ViTImageProcessorPil(size={"height": 64, "width": 64}),
    "convnext": transformers.ConvNextImageProcessorPil(size={"shortest_edge": 56}, crop_pct=0.875),
    "convnext, large": transformers.ConvNextImageProcessorPil(size={"shortest_edge": 384}, crop_pct=0.875),
    "deit": transformers.DeiTImageProcessorPil(),
    "efficientnet": transformers.EfficientNetImageProcessorPil(
        resample=0, rescale_factor=1 / 127.5, rescale_offset=True
    ),
    "levit": transformers.LevitImageProcessorPil(),
    "poolformer": transformers.PoolFormerImageProcessorPil(),
    "dinov2": transformers.BitImageProcessorPil(size={"shortest_edge": 256}),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_the_preprocessing_of_a_folder_is_that_of_its_processor(kind, tmp_path):
    CONFIGURATIONS["vit"].save_pretrained(tmp_path)
    PROCESSORS[kind].save_pretrained(tmp_path)
    published = PROCESSORS[kind](picture(), return_tensors="pt")["pixel_values"][0]
    source = find(f"hf/{tmp_path}")

    pixels = torch.from_numpy(source.preprocess(picture())).float() / 255

    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (source.preprocess.mean, source.preprocess.std))
    assert_close((pixels - mean) / std, published, atol=1e-5, rtol=0)
    assert not source.caution


def test_a_preprocessing_that_cannot_be_had_is_said_unless_another_is_given(tmp_path, caplog):
    transformers.ViTForImageClassification(CONFIGURATIONS["vit"]).save_pretrained(tmp_path)
    assert "holds no preprocessor_config.json" in find(f"hf/{tmp_path}").caution
    transformers.MobileViTImageProcessorPil().save_pretrained(tmp_path)  # it swaps red and blue

    load(f"hf/{tmp_path}", custom=Custom(preprocess=SMALL))
    assert not caplog.messages
    with pytest.raises(ValueError, match="cannot run on 3 images"):  # it cuts out 256 pixels
        load(f"hf/{tmp_path}")

    assert "images are not prepared as MobileViTImageProcessor" in caplog.text


def test_a_folder_that_holds_no_classifier_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"holds no config\.json; give one that save_pretrained has written"):
        find(f"hf/{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "nothing known"}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"config\.json' cannot be used: "):
        find(f"hf/{tmp_path}")
    transformers.BertConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds no classifier of images"):
        load(f"hf/{tmp_path}")
    transformers.ViTModel(CONFIGURATIONS["vit"]).save_pretrained(tmp_path)  # what classifies would be random
    with pytest.raises(ValueError, match=r"tensors are missing \('classifier\.bias' first\)"):
        load(f"hf/{tmp_path}")


def test_a_library_that_is_not_installed_is_named_with_its_extra(monkeypatch, tmp_path: Path):
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("tta_server.models.libraries.importlib.import_module", missing)

    with pytest.raises(ValueError, match=r"this model needs timm; install tta-server\[timm\]"):
        find("timm/resnet18")
    with pytest.raises(ValueError, match=r"this model needs transformers; install tta-server\[hf\]"):
        find(f"hf/{tmp_path}")
