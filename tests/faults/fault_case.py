"""Commands, what is there before each, and what an undisturbed run of it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fault_world import World
from support.world_parts import tree

COMMANDS = (
    "embed",
    "splits",
    "sae",
    "prism",
    "zsdebias",
    "evaluate",
    "encode",
    "gather",
    "import",
    "unpack",
    "download",
)
BUILDS_UPON = {"splits": "embed", "gather": "encode"}
# Names of what is not finished, and says so: nobody takes it for a result.
RESUMABLE = (".checkpoint", ".parts/", ".download/")
ABANDONED = (".partial-", ".making")


class Case:
    """A command in copies of the project."""

    def __init__(self, command: str, runner: Any, template: World, address: str, folder: Path) -> None:
        self.command, self._runner, self._folder = command, runner, folder
        self._more = {  # archives come from one place for all copies
            "download": ["--base-url", address],
            "unpack": ["--source", f"sae={template.root / 'sae.zip'}"],
        }.get(command, [])
        self.start, whole = template.copy(folder / "start"), template.copy(folder / "whole")
        for world in (self.start, whole):
            if command in BUILDS_UPON:
                assert runner.run(world, BUILDS_UPON[command]).code == 0
        self.undisturbed = self.run(whole)
        assert self.undisturbed.code == 0, self.undisturbed.err
        self.before, self.after = tree(self.start.root), tree(whole.root)
        assert self.after != self.before
        self._between = self._metadata_of_all_rows() if command == "embed" else {}
        self._copies = 0

    def _metadata_of_all_rows(self) -> dict[str, bytes]:
        """Metadata that the command writes before it leaves unreadable images out."""
        world = self.start.copy(self._folder / "between")
        images = world.pictures / "images"
        for name in ("05.png", "17.png"):
            (images / name).write_bytes((images / "00.png").read_bytes())
        assert self.run(world).code == 0
        return {name: part for name, part in tree(world.root).items() if name.endswith("metadata.feather")}

    def copy(self) -> World:
        """Make a copy of the project as it is before the command."""
        self._copies += 1
        return self.start.copy(self._folder / str(self._copies))

    def job(self, world: World, **what: Any) -> dict[str, Any]:
        return self._runner.job(world, self.command, *self._more, **what)

    def run(self, world: World, **what: Any) -> Any:
        return self._runner.run(world, self.command, *self._more, **what)

    def together(self, world: World, number: int) -> list[Any]:
        """Run the command several times at once."""
        return self._runner.together(*(self.job(world) for _ in range(number)))

    def check_left(self, world: World, *allowed: str) -> None:
        """Check what a run has left: files of other names, and whole ones (old, final, or a step between)."""
        for name, content in tree(world.root).items():
            if not any(part in name for part in allowed):
                whole = [state.get(name) for state in (self.before, self.after, self._between)]
                assert content in whole, f"{name} is not whole, or left"

    def check_end(self, world: World) -> None:
        """Check that the next run ends as an undisturbed one."""
        again = self.run(world)
        assert again.code == 0, again.err
        assert tree(world.root) == self.after
