"""The prompts of a task setting, of a prompt set in either form: ours or the release's."""

from __future__ import annotations

from bias_evaluation.grid.configs import DatasetConfig, Setting
from bias_evaluation.prompts.official import is_official, load_official
from bias_evaluation.prompts.sentences import SettingPrompts, load_prompts
from safe_io.documents import choices
from safe_io.errors import InputError


def load_setting_prompts(config: DatasetConfig, setting: Setting, prompts: str) -> SettingPrompts:
    """Load and expand the prompts of a setting, of a prompt set in either form.

    Parameters
    ----------
    config : DatasetConfig
    setting : Setting
    prompts : str
        Name of the prompt set.

    Raises
    ------
    InputError
        The prompt set, its file or the setting in it does not exist, or does not ask as the task does.
    """
    folder = config.path.parent / "prompts" / prompts
    found = (
        load_official(folder, setting.prompts)
        if is_official(folder)
        else load_prompts(folder, config.dataset, setting.prompts)
    )
    _check_queries(found, setting)
    return found


def _check_queries(prompts: SettingPrompts, setting: Setting) -> None:
    """Raise where prompts do not ask as a task does: queries one by one, classes together."""
    found = [len(group.queries) for group in prompts.groups]
    if setting.target is None and set(found) != {1}:
        what = "each query needs a group of its own (no 'together')"
    elif setting.target is not None and found != [len(setting.target.values)]:
        what = f"its {len(setting.target.values)} target classes must be asked together ('together: true')"
    else:
        return
    raise InputError(
        f"{prompts.source}: '{setting.prompts}' has {len(found)} group(s) of {choices(sorted(set(found)))} "
        f"queries, but setting '{setting.name}' is a {setting.task}: {what}"
    )
