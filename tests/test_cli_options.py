"""Options, their names and their files, as a user meets them: one word for one thing, and no riddle."""

import contextlib
import dataclasses
import inspect
import io
import os
import re
import typing
from collections import defaultdict

import pytest
from typer.core import TyperArgument
from typer.main import get_command
from typer.testing import CliRunner

from mcl.cli import main
from mcl.commands import app
from mcl.config import METHODS, TrainConfig
from mcl.options import known_settings, read_config

COMMANDS = get_command(app).commands
TINY = '--epochs 1 --steps-per-epoch 2 --p 4 --n-subsets 2 --k1 10 --k2 3'.split()


def options(command):
    return [p for p in COMMANDS[command].params if not isinstance(p, TyperArgument) and not p.hidden]


def words(parameter):
    return [word for word in parameter.opts if word.startswith('--')]


def refused(*arguments, cwd):
    "The one line a failed command prints."
    said, before = io.StringIO(), os.getcwd()
    os.chdir(cwd)
    try:
        with contextlib.redirect_stderr(said), pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
    finally:
        os.chdir(before)
    assert ended.value.code == 2 and 'Traceback' not in said.getvalue()
    return ' '.join(said.getvalue().split())


# --- one word for one thing ---

ONE_THING = [
    {'--output', '--out', '--root', '--target', '--destination'},  # what a command writes
    {'--data-dir', '--root', '--work', '--folder', '--data'},      # where the images lie, or are rendered
    {'--run-dir', '--run', '--folder', '--log-dir'},               # the folder of one run
    {'--work-dir', '--work', '--scratch'},                         # worlds and unfinished runs
    {'--clusterer', '--cluster-method', '--algorithm'},            # what groups features
    {'--steps-per-epoch', '--steps', '--iters'},                   # optimiser steps
    {'--weights', '--model', '--checkpoint', '--network'},         # a trained network
    {'--arch', '--architecture', '--backbone'},                    # what kind of network
]


def test_no_two_words_for_one_thing():
    used = {word for command in COMMANDS for option in options(command) for word in words(option)}
    for names in ONE_THING:
        assert len(names & used) == 1, names & used


def test_no_two_options_of_different_name_explain_themselves_alike():
    by_help = defaultdict(set)
    for command in COMMANDS:
        for option in options(command):
            by_help[re.split('[;(]', option.help)[0].strip()].add(option.name)
    assert not {text: names for text, names in by_help.items() if len(names) > 1}


def test_a_name_has_one_type_in_all_commands():
    kinds = defaultdict(set)
    for command in app.registered_commands:
        shown = {option.name for option in options(command.name)}
        for name, parameter in inspect.signature(command.callback).parameters.items():
            if name in shown:
                kind = typing.get_args(parameter.annotation)[0]
                kinds[name] |= set(typing.get_args(kind) or [kind]) - {type(None)}
    several = {name for name, types in kinds.items() if len(types) > 1}
    assert several <= {'eps', 'weights'}, several  # a number or auto; a file or the name of weights


def test_every_option_says_what_it_is():
    assert not [(c, o.name) for c in COMMANDS for o in options(c) if not o.help]


OLD = [
    ('cluster', '--method', '--clusterer'),
    ('pedworld', '--root', '--output'),
    ('pretrain', '--work', '--data-dir'),
    ('pretrain', '--steps', '--steps-per-epoch'),
    ('reproduce', '--out', '--output'),
    ('reproduce', '--work', '--work-dir'),
]


@pytest.mark.parametrize('command, old, new', OLD)
def test_old_spellings_work_and_are_not_shown(command, old, new):
    known = COMMANDS[command]
    name = new.strip('-').replace('-', '_')
    arguments = ['a.npy', 'b.npy'] if command == 'cluster' else []
    for spelt in ([old, '7'], [f'{old}=7']):
        with known.make_context(command, [*arguments, *spelt]) as context:
            assert str(context.params[name]) == '7'
    shown = CliRunner().invoke(app, [command, '--help']).stdout
    assert new in shown and not re.search(rf'{old}(?![\w-])', shown)


# --- every setting ---


def test_every_setting_is_an_option_with_its_comment_in_its_group():
    shown = {option.name: option for option in options('train')}
    for field in dataclasses.fields(TrainConfig):
        assert field.name in shown, field.name
    for name, setting in known_settings().items():
        if name != 'method':
            assert setting.help.replace('None', 'none') in shown[name].help
            assert shown[name].rich_help_panel.lower() == setting.group


def test_the_help_names_choices_and_defaults():
    text = ' '.join(CliRunner().invoke(app, ['train', '--help'], env={'COLUMNS': '200'}).stdout.split())
    assert 'window|random' in text and 'dbscan|louvain|leiden' in text and '|'.join(METHODS) in text
    assert f'default {TrainConfig.epochs}' in text and 'The schedule' in text


def test_a_run_can_be_started_again_from_its_folder(worlds, tmp_path):
    common = ['train', '--dataset', 'pedworld-tiny', '--data-dir', str(worlds)]
    method = ['--method', 'mcl_plus', '--trusted-share', '0.8']
    main_quietly(*common, *method, *TINY, '--run-dir', tmp_path / 'first')
    main_quietly(*common, '--config', tmp_path / 'first/config.toml', '--run-dir', tmp_path / 'again')
    first, again = (read_config(tmp_path / name / 'config.toml') for name in ('first', 'again'))
    assert first == again and first['trusted_share'] == 0.8 and first['method'] == 'mcl_plus'
    weights = [(tmp_path / name / 'model.safetensors').read_bytes() for name in ('first', 'again')]
    assert weights[0] == weights[1]


def main_quietly(*arguments):
    done = CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output


# --- bad input ---

BAD_FILES = [
    ('epoch = 3', "unknown setting 'epoch': did you mean epochs?"),
    ('steps-per-epoch = 3', 'did you mean steps_per_epoch?'),
    ('nothing_like_it = 3', '`mcl train --help` lists them all'),
    ('epochs = "many"', "epochs is 'many', but must be a whole number, as in epochs = 10"),
    ('epochs = 2.5', 'epochs is 2.5, but must be a whole number'),
    ('epochs = true', 'must be a whole number'),
    ('eps = "auto"', 'eps is \'auto\', but must be a number'),
    ('soft_weights = 1', 'must be true or false'),
    ('arch = 3', 'must be a text in quotes'),
    ('split_by = "windows"', "unknown split_by 'windows': did you mean window?"),
    ('method = "mlc"', "unknown method 'mlc': did you mean mcl?"),
    ('epochs = 0', 'epochs is 0: it must be at least 1'),
    ('eps = nan', 'eps is nan'),
    ('learning_rate = nan', 'learning_rate is nan'),
    ('epochs = 1979-05-27', 'must be a whole number'),
    ('[schedule]\nepochs = 3', "unknown setting 'schedule'"),
    ('epochs = 3\nepochs = 4', 'is not a TOML file'),
    ('epochs: 3', 'is not a TOML file'),
    ('{"epochs": 3}', 'is not a TOML file'),
    ('', 'holds no setting'),
    ('# all of it is a comment', 'holds no setting'),
]


@pytest.mark.parametrize('text, message', BAD_FILES)
def test_a_bad_config_file_is_refused_in_one_line_before_anything_is_made(text, message, tmp_path):
    (tmp_path / 'config.toml').write_text(text)
    said = refused('train', '--config', 'config.toml', '--run-dir', 'run', cwd=tmp_path)
    assert message in said
    assert [path.name for path in tmp_path.iterdir()] == ['config.toml']


def test_what_is_no_text_file_is_named(tmp_path):
    (tmp_path / 'weights.toml').write_bytes(bytes(range(256)))
    assert 'weights.toml is not a TOML file' in refused('train', '--config', 'weights.toml', cwd=tmp_path)
    assert 'nowhere.toml' in refused('train', '--config', 'nowhere.toml', cwd=tmp_path)
    assert str(tmp_path.name) in refused('train', '--config', f'../{tmp_path.name}', cwd=tmp_path)


def test_the_settings_of_one_method_are_not_taken_for_another(tmp_path):
    (tmp_path / 'mcl.toml').write_text('method = "mcl"\neps = 0.5')
    said = refused('train', '--config', 'mcl.toml', '--method', 'mcl_plus', cwd=tmp_path)
    assert 'method mcl, --method says mcl_plus' in said and 'leave --method out' in said


def test_an_unknown_option_brings_the_nearest():
    done = CliRunner().invoke(app, ['train', '--epoch', '3'])
    assert done.exit_code == 2 and '--epochs' in done.output
    done = CliRunner().invoke(app, ['train', '--epochs', 'many'])
    assert done.exit_code == 2 and '--epochs' in done.output


def test_a_wrong_choice_brings_the_nearest(tmp_path):
    assert 'did you mean window?' in refused('train', '--split-by', 'windows', cwd=tmp_path)
    assert 'did you mean mcl_plus?' in refused('train', '--method', 'mcl_pluss', cwd=tmp_path)
    assert not list(tmp_path.iterdir())


def test_pretrain_writes_nothing_into_the_package(tmp_path):
    import mcl

    shipped = f'{mcl.__path__[0]}/weights/small_source.safetensors'
    before = os.stat(shipped)
    assert 'choose another place' in refused('pretrain', '--output', shipped, cwd=tmp_path)
    assert os.stat(shipped).st_mtime_ns == before.st_mtime_ns and not list(tmp_path.iterdir())
