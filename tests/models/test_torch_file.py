"""Files of TorchScript and torch.export: served as they are, or refused in one line."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from tests.networks import reference_network
from tta_server.adapters import create
from tta_server.adapters.base import check
from tta_server.models import Custom, Model, Preprocess, Reference, load
from tta_server.models.answering import answering
from tta_server.models.torch_file import torch_file_source

SMALL = Custom(preprocess=Preprocess((32, 32)))
X = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def saved(folder: Path, suffix: str, network: nn.Module) -> str:
    path = folder / f"mine{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if suffix == ".pt":
            torch.jit.save(torch.jit.trace(network.eval(), X), path)
        else:
            rows = {0: torch.export.Dim("rows", min=1, max=256)}
            torch.export.save(torch.export.export(network.eval(), (X,), dynamic_shapes=(rows,)), path)
    return str(path)


@pytest.fixture(scope="module", params=[".pt", ".pt2"])
def path(request, tmp_path_factory) -> Path:
    return Path(saved(tmp_path_factory.mktemp("files"), request.param, reference_network()))


@pytest.fixture(scope="module")
def model(path) -> Model:
    return load(str(path), custom=SMALL)


def test_a_file_answers_as_its_network_and_says_what_is_in_it(model):
    output = model.backbone.forward(X)

    assert_close(output.logits, reference_network().eval()(X), atol=1e-5, rtol=1e-4)
    assert model.backbone.spec.name == "mine"
    assert model.backbone.findings.apart
    assert "no parameters" in model.backbone.findings.remarks["type"]


def test_features_are_found_in_an_exported_program_and_not_in_a_script(path, model):
    output = model.backbone.forward(X)
    if path.suffix == ".pt":
        assert "none found" in model.backbone.findings.remarks["head"]
        assert output.features.shape == output.logits.shape
    else:
        fc = reference_network().fc
        assert_close(fc(output.features), output.logits, atol=1e-5, rtol=1e-4)


def test_what_needs_no_statistics_is_served_and_the_rest_refused(model):
    tensors = {"memory/features": torch.randn(40, model.backbone.spec.features), "memory/labels": torch.arange(40) % 10}
    reference = Reference(model.backbone.spec.digest, tensors)
    for adapter in map(create, ("source", "lame", "adanpc")):
        state = adapter.init(model.backbone, reference)
        assert adapter.predict(model.backbone, adapter.adapt(model.backbone, state, X).state, X).logits.isfinite().all()
    for name in ("tent", "bn", "cotta"):
        with pytest.raises(ValueError, match=name):
            check(create(name), model.backbone, reference)


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
def test_on_onnx_runtime_an_exported_program_answers_and_a_traced_one_is_refused(tmp_path, suffix):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.Flatten(), nn.Linear(256, 10))
    backbone = load(saved(tmp_path, suffix, network), custom=SMALL).backbone

    if suffix == ".pt2":
        chosen = answering(backbone, "onnx")
        assert chosen.remark.startswith("onnx: ONNX Runtime")
        assert_close(chosen.backbone.forward(X).logits, network(X), atol=1e-5, rtol=1e-4)
    else:
        said = r"^network 'mine' cannot be exported to ONNX: .{1,100}; use runtime torch$"
        with pytest.raises(ValueError, match=said):
            answering(backbone, "onnx")


def test_other_files_and_wishes_are_refused_in_one_line(path, tmp_path):
    other = tmp_path / f"w{path.suffix}"
    with pytest.raises(ValueError, match="does not exist"):
        load(str(other))
    torch.save(reference_network().state_dict(), other)
    with pytest.raises(ValueError, match=r"is no file of torch\.[a-z.]+save") as refused:
        load(str(other))
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="holds no weights that can be converted"):
        load(str(path), custom=Custom(preprocess=Preprocess((32, 32)), dtype="bfloat16"))
    with pytest.raises(ValueError, match="has 10 classes, not the 7 asked for"):
        load(str(path), custom=Custom(classes=7, preprocess=Preprocess((32, 32))))
    with pytest.raises(ValueError, match="cannot run on 3 images of shape"):
        load(str(path), custom=Custom(preprocess=Preprocess((32, 32), channels=1)))


def test_a_file_with_another_digest_is_not_even_read(tmp_path):
    path = tmp_path / "net.pt2"
    path.write_bytes(b"whatever this is, it is not read")

    with pytest.raises(ValueError, match="has sha256"):
        load(str(path), sha256="0" * 64)


class Placed(nn.Module):
    """Makes a tensor where its images are, which an exported program then does on that device only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) + torch.arange(3, device=x.device)


def test_a_program_that_names_another_device_is_refused_with_the_remedy(tmp_path):
    module = torch_file_source(Path(saved(tmp_path, ".pt2", Placed()))).ready()

    with pytest.raises(
        ValueError, match=r"names the device 'cpu' in its graph, and fails on 'meta' .*: export it on that device"
    ):
        module(X.to("meta"))
    assert module(X).shape == (3, 3)


def test_a_file_that_was_saved_in_training_mode_is_refused(tmp_path):
    path = tmp_path / "mine.pt2"
    torch.export.save(torch.export.export(reference_network().train(), (X,)), path)

    with pytest.raises(ValueError, match="training mode"):
        load(str(path), custom=SMALL)


@pytest.mark.parametrize(
    ("rows", "pixels", "remedy"), [(2, 32, "a dynamic number of images"), (3, 8, "model.preprocess")]
)
def test_a_program_exported_for_other_images_is_refused_with_the_remedy(tmp_path, rows, pixels, remedy):
    path, x = tmp_path / "mine.pt2", torch.rand(rows, 3, pixels, pixels)
    torch.export.save(torch.export.export(reference_network().eval(), (x,)), path)

    with pytest.raises(ValueError, match=rf"exported for other images .*Guard failed.*: [\w ]+ {remedy}"):
        load(str(path), custom=SMALL)


def test_the_remedy_for_a_fixed_number_of_images_is_one(tmp_path):
    path = tmp_path / "mine.pt2"
    program = torch.export.export(reference_network().eval(), (X,), dynamic_shapes=({0: torch.export.Dim("images")},))
    torch.export.save(program, path)
    backbone = load(str(path), custom=SMALL).backbone

    assert [len(backbone.forward(X[:1].repeat(rows, 1, 1, 1)).logits) for rows in (1, 2, 64)] == [1, 2, 64]


def test_of_a_script_that_cannot_run_the_last_line_is_told(tmp_path):
    wide = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 10))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(wide), tmp_path / "wide.pt")

    with pytest.raises(ValueError, match=r"images of shape \(3, 32, 32\): RuntimeError: mat1 and mat2") as refused:
        load(str(tmp_path / "wide.pt"), custom=SMALL)

    assert "interpreter" not in str(refused.value)
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
@pytest.mark.parametrize("kind", [torch.float16, torch.float64, torch.bfloat16])
def test_a_file_of_another_type_is_given_images_of_that_type(tmp_path, suffix, kind):
    network, x = reference_network().eval().to(kind), X.to(kind)
    path = tmp_path / f"mine{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if suffix == ".pt":
            torch.jit.save(torch.jit.trace(network, x), path)
        else:
            rows = {0: torch.export.Dim("rows")}
            torch.export.save(torch.export.export(network, (x,), dynamic_shapes=(rows,)), path)

    answer = load(str(path), custom=SMALL).backbone.forward(X).logits

    coarse = kind != torch.float64
    assert_close(answer.double(), network(x).double(), atol=5e-2 if coarse else 1e-9, rtol=0)


class Dropping(nn.Module):
    """Has no norm that training would move, only a dropout."""

    def __init__(self, share: float = 0.5, training: bool | None = None) -> None:
        super().__init__()
        self.share, self.always = share, training
        self.conv, self.fc = nn.Conv2d(3, 4, 3, stride=4), nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.conv(x).flatten(1)
        training = self.training if self.always is None else self.always
        return self.fc(nn.functional.dropout(maps, self.share, training))


def dropping(folder: Path, suffix: str, network: nn.Module) -> str:
    path = folder / f"drop{suffix}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if suffix == ".pt":
            torch.jit.save(torch.jit.trace(network, X, check_trace=False), path)
        else:
            rows = {0: torch.export.Dim("rows")}
            torch.export.save(torch.export.export(network, (X,), dynamic_shapes=(rows,)), path)
    return str(path)


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
@pytest.mark.parametrize("share", [0.5, 0.01])
def test_a_dropout_of_training_is_refused(tmp_path, suffix, share):
    with pytest.raises(
        ValueError, match=r"saved in training mode, .* differently each time: call .eval\(\)"
    ) as refused:
        load(dropping(tmp_path, suffix, Dropping(share).train()), custom=SMALL)

    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("suffix", [".pt", ".pt2"])
@pytest.mark.parametrize("network", [Dropping().eval(), Dropping(0.0).train()], ids=["evaluating", "none"])
def test_a_dropout_that_drops_nothing_is_served(tmp_path, suffix, network):
    backbone = load(dropping(tmp_path, suffix, network), custom=SMALL).backbone

    assert_close(backbone.forward(X).logits, network.eval()(X), atol=1e-5, rtol=1e-4)
    assert backbone.findings.repeats


def test_a_script_that_was_saved_while_it_trained_is_served_as_it_answers_in_evaluation(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(256, 10)).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(network), tmp_path / "mine.pt")

    answer = load(str(tmp_path / "mine.pt"), custom=SMALL).backbone.forward(X).logits

    assert_close(answer, network.eval()(X), atol=1e-5, rtol=1e-4)


class Random(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) + torch.rand(3)


class Late(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer = x.mean((2, 3)) - self.mean
        if x.shape[0] >= 8:
            self.mean.mul_(0.9).add_(0.1 * x.mean((0, 2, 3)))
        return answer


@pytest.mark.parametrize(("kind", "said"), [(Random, "draws random numbers"), (Late, "keeps something of what it")])
def test_a_script_that_does_not_repeat_is_refused(tmp_path, kind, said):
    path = tmp_path / "mine.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(kind()), path)

    with pytest.raises(ValueError, match=said):
        _ = load(str(path), custom=SMALL).backbone.findings
