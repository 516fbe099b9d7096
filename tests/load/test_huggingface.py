"""config.json: the class it names, built from the installed transformers and from nothing else."""

from __future__ import annotations

import json

import pytest

from gradlint.errors import BuildError, LoadError
from gradlint.load import load
from gradlint.trace import recording, trace

BERT = {
    "architectures": ["BertForMaskedLM"],
    "model_type": "bert",
    "vocab_size": 60,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


@pytest.fixture
def config(tmp_path):
    def write(data=BERT, **changed):
        path = tmp_path / "config.json"
        path.write_text(data if isinstance(data, str) else json.dumps({**data, **changed}))
        return path

    return write


def test_a_configuration_or_its_folder(config):
    path = config()
    for target in (str(path), str(path.parent)):
        [loaded] = load(target)
        assert (loaded.name, loaded.file) == ("BertForMaskedLM", str(path))
        assert len(loaded.build().bert.encoder.layer) == 2


def test_it_is_judged_by_the_laws_of_its_initialisation(config):
    with recording() as laws:
        [loaded] = load(str(config(initializer_range=0.5)))
        model = loaded.build()
    law = trace(model, laws=laws).parameters["bert.encoder.layer.1.output.dense.weight"].law
    assert (law.kind, law.std) == ("normal", 0.5)


def test_each_architecture_is_a_model_and_a_name_chooses_one(config):
    path = str(config(architectures=["BertForMaskedLM", "BertModel"]))
    assert [loaded.name for loaded in load(path)] == ["BertForMaskedLM", "BertModel"]
    assert [loaded.name for loaded in load(f"{path}:BertForTokenClassification")] == ["BertForTokenClassification"]


def test_without_architectures_it_is_the_model_without_a_head(config):
    assert [loaded.name for loaded in load(str(config({k: v for k, v in BERT.items() if k != "architectures"})))] == ["BertModel"]


def test_arguments_replace_fields_also_those_the_file_leaves_at_their_default(config):
    path = str(config())
    assert len(load(path, {"num_hidden_layers": 5})[0].build().bert.encoder.layer) == 5
    assert load(path, {"type_vocab_size": 7})[0].build().bert.embeddings.token_type_embeddings.num_embeddings == 7
    with pytest.raises(LoadError, match="the configuration of BertForMaskedLM has no 'num_hidden_layer'") as caught:
        load(path, {"num_hidden_layer": 5})
    assert caught.value.hint == "did you mean 'num_hidden_layers'?"


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        ('{"model_type": \n oh', "is not JSON", ""),
        ("[1]", "is not a configuration of transformers", "save_pretrained"),
        ({"architecture": "resnet18"}, "is a configuration of timm", "timm.create_model"),
        ({**BERT, "architectures": ["BertForWhatever"]}, "has no model 'BertForWhatever'", "transformers_version"),
        ({**BERT, "architectures": ["BertConfig"]}, "has no model 'BertConfig'", "transformers_version"),
        ({"model_type": "nothing-known"}, "has no model type 'nothing-known'", "transformers_version"),
    ],
)
def test_what_is_no_usable_configuration(config, data, message, hint):
    path = str(config(data))
    with pytest.raises(LoadError, match=message) as caught:
        load(path)
    assert hint in caught.value.hint
    assert caught.value.where == (f"{path}:2" if "JSON" in message else "")


def test_code_that_comes_with_weights_is_not_run(config):
    path = config(architectures=["OwnModel"], auto_map={"AutoModel": "modeling_own.OwnModel"})
    (path.parent / "modeling_own.py").write_text("raise SystemError('it was run')")
    with pytest.raises(LoadError, match="runs no code that comes with weights") as caught:
        load(str(path))
    assert "write a function" in caught.value.hint


def test_it_does_not_ask_the_network_while_building(config, monkeypatch):
    from huggingface_hub import constants, hf_hub_download
    from transformers import BertModel

    seen = []

    def asking(self, *_args, **_kwargs):
        seen.append(constants.HF_HUB_OFFLINE)
        hf_hub_download("owner/of-no-such-model", "config.json")

    monkeypatch.setattr(BertModel, "__init__", asking)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(BuildError, match=r"LocalEntryNotFoundError|OfflineModeIsEnabled"):
        load(f"{config()}:BertModel")[0].build()
    assert seen == [True]
    assert constants.HF_HUB_OFFLINE is False


def test_weights_of_backbones_are_left_out(config):
    path = config(use_pretrained_backbone=True)
    assert load(str(path))[0].build().config.use_pretrained_backbone is False


def test_a_configuration_that_cannot_be_built_says_why(config):
    with pytest.raises(BuildError, match=r"BertForMaskedLM cannot be built from .*hidden size") as caught:
        load(str(config(hidden_size=15)))[0].build()
    assert "another version" in caught.value.hint


def test_other_folders_and_files_are_left_to_other_loaders(tmp_path):
    with pytest.raises(LoadError, match="is a folder"):
        load(str(tmp_path))
    with pytest.raises(LoadError, match="no such file"):
        load(str(tmp_path / "config.json"))
