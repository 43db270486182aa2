import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch.testing import assert_close

from tta_server.models import Custom, Preprocess, glyphs, load
from tta_server.models.sources import architectures, find

SMALL = "shufflenet_v2_x0_5"  # the quickest of torchvision's to build


def built(name: str, **arguments: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return torchvision.models.get_model(name, weights=None, **arguments).eval()


def picture(width: int, height: int) -> Image.Image:
    return Image.frombytes("RGB", (width, height), np.random.default_rng(0).bytes(width * height * 3))


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for SMALL with 4 classes."""
    path = tmp_path_factory.mktemp("weights") / "small.pth"
    torch.save(built(SMALL, num_classes=4).state_dict(), path)
    return path


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of a user's own."""
    code = """
        from torch import nn

        WEIGHTS = 7

        def network(num_classes=5):
            return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, num_classes))

        def fixed():
            return network(3)

        def stubborn(num_classes):
            return network(3)

        def nothing():
            return None

        def fails():
            raise OSError("no such file:\\n  pretrained.pth")

        def picky(depth):
            return network(depth)
    """
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "factories.py").write_text(textwrap.dedent(code), encoding="utf-8")
    (tmp_path / "house" / "broken.py").write_text("import something_that_nobody_has", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "house.factories"
    for name in ("house", "house.factories", "house.broken"):
        sys.modules.pop(name, None)


# The embedded model
def test_the_embedded_model_needs_nothing_and_reads_its_test_images():
    model = load("glyphs")
    pixels, labels = glyphs.images("test")
    inputs = np.stack([model.preprocess(Image.fromarray(image.transpose(1, 2, 0))) for image in pixels[:1000]])

    predicted = model.backbone.forward(torch.from_numpy(inputs) / 255).logits.argmax(1)

    assert np.mean(predicted.numpy() != labels[:1000]) <= 0.03
    assert model.labels == glyphs.LABELS
    assert model.backbone.spec.name == "glyphs"
    assert model.backbone.spec.input_shape == model.preprocess.input_shape == (3, 32, 32)


def test_the_embedded_model_takes_other_weights_of_the_same_shape(tmp_path):
    network = glyphs.build()
    save_file(network.state_dict(), tmp_path / "mine.safetensors")

    model = load("glyphs", weights=tmp_path / "mine.safetensors")

    assert torch.equal(model.backbone.weights()["fc.weight"], network.fc.weight)


def test_the_embedded_model_refuses_another_number_of_classes():
    with pytest.raises(ValueError, match="model 'glyphs' has 36 classes, not the 10 asked for"):
        load("glyphs", custom=Custom(classes=10))


# torchvision
def test_resnet50_loads_from_a_file_with_its_size_and_labels(tmp_path, monkeypatch):
    # Torch has drawn weights once already when torchvision draws them again, which takes most of the time here.
    monkeypatch.setattr(torch.nn.init, "kaiming_normal_", lambda tensor, **_: tensor)
    resnet50, path = built("resnet50"), tmp_path / "resnet50.safetensors"
    save_file(resnet50.state_dict(), path)

    model = load("resnet50", weights=str(path))

    assert model.preprocess.input_shape == (3, 224, 224)
    assert (model.backbone.spec.classes, model.backbone.spec.features) == (1000, 2048)
    assert model.labels == tuple(torchvision.models.ResNet50_Weights.DEFAULT.meta["categories"])
    pixels = model.preprocess(picture(300, 260))
    reference = torchvision.models.ResNet50_Weights.DEFAULT.transforms()(picture(300, 260))[None]
    logits = model.backbone.forward(torch.from_numpy(pixels)[None] / 255).logits
    assert_close(logits, resnet50(reference), atol=1e-4, rtol=1e-4)
    path.unlink()  # 100 MB


# The other of the two with an `init_weights` is built in the same way and much larger.
def test_googlenet_answers_as_torchvisions_own_with_the_same_weights(tmp_path, monkeypatch):
    network = built("googlenet", init_weights=False)
    for parameter in network.parameters():
        if parameter.dim() == 4:  # with torch's own initial weights nothing of the image would reach the logits
            torch.nn.init.kaiming_normal_(parameter)
    torch.save(network.state_dict(), tmp_path / "googlenet.pth")
    published = torchvision.models.GoogLeNet_Weights.DEFAULT
    monkeypatch.setattr(type(published), "get_state_dict", lambda *_, **__: network.state_dict())
    reference = torchvision.models.googlenet(weights=published).eval()

    model = load("googlenet", weights=tmp_path / "googlenet.pth")

    inputs = torch.from_numpy(model.preprocess(picture(260, 260)))[None] / 255
    expected = reference(published.transforms()(picture(260, 260))[None])
    assert_close(model.backbone.forward(inputs).logits, expected, atol=1e-4, rtol=1e-4)


def test_labels_give_the_number_of_classes_of_a_torchvision_model(small_weights):
    model = load(SMALL, weights=small_weights, custom=Custom(labels=("a", "b", "c", "d")))

    assert model.labels == ("a", "b", "c", "d")
    assert model.backbone.spec.classes == 4


def test_without_labels_the_classes_of_a_retrained_model_are_numbered(small_weights):
    assert load(SMALL, weights=small_weights, custom=Custom(classes=4)).labels == ("0", "1", "2", "3")


def test_a_torchvision_model_without_a_weights_file_is_refused():
    with pytest.raises(ValueError, match=f"'{SMALL}' needs a local weights file; nothing is ever downloaded"):
        load(SMALL)


def test_weights_of_another_number_of_classes_are_refused_with_the_file(small_weights):
    with pytest.raises(
        ValueError, match=rf"'{small_weights}' do not fit .*\(4, .*expected \(1000, .*number of classes"
    ):
        load(SMALL, weights=small_weights)


def test_a_wrong_sha256_is_refused(small_weights):
    with pytest.raises(ValueError, match="has sha256"):
        load(SMALL, weights=small_weights, custom=Custom(classes=4), sha256="0" * 64)


def test_another_preprocessing_changes_the_input_and_the_normalisation(small_weights):
    preprocess = Preprocess((64, 48), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    network = built(SMALL, num_classes=4)
    x = torch.rand(2, 3, 64, 48)

    model = load(SMALL, weights=small_weights, custom=Custom(classes=4, preprocess=preprocess))

    assert model.backbone.spec.input_shape == (3, 64, 48)
    assert_close(model.backbone.forward(x).logits, network((x - 0.5) / 0.25), atol=1e-5, rtol=1e-5)


# A user's own
def test_a_factory_is_served_as_it_comes(factories):
    model = load(f"{factories}:network", custom=Custom(preprocess=Preprocess((8, 8))))

    assert (model.backbone.spec.name, model.backbone.spec.classes) == ("network", 5)
    assert model.labels == ("0", "1", "2", "3", "4")


def test_a_factory_is_called_with_the_number_of_classes_asked_for(factories):
    assert (
        load(f"{factories}:network", custom=Custom(classes=9, preprocess=Preprocess((8, 8)))).backbone.spec.classes == 9
    )


def test_a_factory_is_called_with_the_arguments_asked_for(factories):
    asked = Custom(preprocess=Preprocess((8, 8)), arguments={"depth": 6})

    assert load(f"{factories}:picky", custom=asked).backbone.spec.classes == 6
    with pytest.raises(ValueError, match=r"picky' failed: TypeError: .* unexpected keyword argument 'width'"):
        load(f"{factories}:picky", custom=Custom(arguments={"depth": 6, "width": 1}))
    with pytest.raises(ValueError, match="has 6 classes, not the 7 asked for"):
        load(f"{factories}:network", custom=replace(asked, classes=7, arguments={"num_classes": 6}))


@pytest.mark.parametrize("name", ["glyphs", SMALL, "timm/test_resnet", "hf/folder", "own.onnx", "a:b.pt", "unknown"])
def test_arguments_are_refused_for_what_is_no_factory(name):
    with pytest.raises(ValueError, match=rf"package\.module:factory'; '{name}' takes none"):
        load(name, custom=Custom(arguments={"depth": 6}))


def test_a_factory_takes_weights_from_a_file(factories, tmp_path):
    weights = {"2.weight": torch.rand(3, 12), "2.bias": torch.rand(3)}
    save_file(weights, tmp_path / "w.safetensors")

    model = load(f"{factories}:fixed", weights=tmp_path / "w.safetensors")

    assert all(torch.equal(model.backbone.weights()[name], tensor) for name, tensor in weights.items())


def test_without_preprocessing_a_factory_gets_that_of_imagenet(factories):
    preprocess = load(f"{factories}:fixed").preprocess

    assert preprocess == Preprocess((224, 224), resize=256, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


def test_a_factory_that_does_not_make_the_classes_asked_for_is_refused(factories):
    with pytest.raises(ValueError, match="has 3 classes, not the 7 asked for"):
        load(f"{factories}:stubborn", custom=Custom(classes=7))


@pytest.mark.parametrize("name", ["factories:missing", "nowhere:network", "broken:network", "factories:", "..:network"])
def test_a_factory_that_cannot_be_imported_is_refused_by_name(factories, name):
    with pytest.raises(ValueError, match=f"model factory 'house.{name}' cannot be imported"):
        load(f"house.{name}")


def test_a_factory_without_a_module_is_refused():
    with pytest.raises(ValueError, match="model factory ':network' cannot be imported"):
        load(":network")


def test_a_factory_that_returns_no_module_is_refused(factories):
    with pytest.raises(ValueError, match=r"returned NoneType, expected an nn\.Module"):
        load(f"{factories}:nothing")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("fails", "OSError: no such file: pretrained.pth"),
        ("picky", "TypeError: picky() missing 1 required positional argument: 'depth'"),
        ("WEIGHTS", "TypeError: 'int' object is not callable"),
    ],
)
def test_a_factory_that_fails_is_refused_in_one_line_that_says_why(factories, name, reason):
    with pytest.raises(ValueError, match="model factory") as refusal:
        load(f"{factories}:{name}")

    assert str(refusal.value) == f"model factory '{factories}:{name}' failed: {reason}"


def test_a_factory_is_found_in_the_folder_of_the_start(factories, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])
    monkeypatch.chdir(tmp_path)

    assert load(f"{factories}:fixed").backbone.spec.classes == 3


# Names and labels
@pytest.mark.parametrize(
    "name", ["", "Glyphs", "resnet51", "fcn_resnet50", "r3d_18", "raft_large", "quantized_resnet50"]
)
def test_an_unknown_name_is_refused_with_what_there_is(name):
    with pytest.raises(ValueError, match=f"unknown model '{name}'; use 'glyphs', a torchvision classifier"):
        load(name)
    with pytest.raises(ValueError, match=f"unknown model '{name}'"):
        find(name)


def test_the_embedded_model_is_listed_first():
    assert architectures()[0] == "glyphs"
    assert {"resnet50", "vit_b_16"} < set(architectures())


@pytest.mark.parametrize("kind", [Path, str])
def test_labels_are_read_from_a_file_one_a_line(tmp_path, factories, kind):
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufefftench, Tinca tinca\r\n  goldfish \nžralok\n\n".encode())

    labels = load(f"{factories}:fixed", custom=Custom(labels=kind(path))).labels
    assert labels == ("tench, Tinca tinca", "goldfish", "žralok")


@pytest.mark.parametrize("kind", [Path, str])
def test_a_missing_labels_file_is_refused_by_name(tmp_path, kind):
    with pytest.raises(ValueError, match=f"labels file '{tmp_path / 'no.txt'}' does not exist"):
        load("glyphs", custom=Custom(labels=kind(tmp_path / "no.txt")))


LATIN = "café\nb\nc\n".encode("latin-1")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"a\n\nc\n", "no name in line 2"), (LATIN, "is not in UTF-8"), (b" \n\n", "no name in line 1")],
)
def test_a_labels_file_that_cannot_be_read_line_by_line_is_refused_by_name(factories, tmp_path, content, said):
    (tmp_path / "labels.txt").write_bytes(content)

    with pytest.raises(ValueError, match=f"labels file '{tmp_path / 'labels.txt'}' (has )?{said}"):
        load(f"{factories}:fixed", custom=Custom(labels=tmp_path / "labels.txt"))


@pytest.mark.parametrize("count", [1, 35, 37])
def test_another_number_of_labels_than_classes_is_refused(count):
    with pytest.raises(ValueError, match=f"model 'glyphs' has 36 classes, got {count} labels"):
        load("glyphs", custom=Custom(labels=[str(i) for i in range(count)]))


# The network
def test_importing_and_loading_open_no_connection(tmp_path, small_weights):
    code = """
        import socket, sys

        def refuse(*args, **kwargs):
            raise SystemExit(f"opened a connection: {args}")

        for name in ("connect", "connect_ex", "sendto"):
            setattr(socket.socket, name, refuse)
        socket.getaddrinfo = socket.create_connection = refuse

        from tta_server import adapters, models
        from tta_server.models.sources import find

        models.load("glyphs")
        models.load(sys.argv[1], weights=sys.argv[2], custom=models.Custom(classes=4))
        find("vit_b_16")
        try:
            models.load("resnet50")
        except ValueError:
            print("nothing was fetched")
    """

    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), SMALL, str(small_weights)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
        env={"HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )

    assert result.stdout == "nothing was fetched\n", result.stderr
    assert not list(tmp_path.rglob("*.pth"))
