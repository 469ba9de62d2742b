"""Upload of a finished model to a hub: no other command uploads a model.

The upload is the output of `vitlet export --to timm`, including proof and card; a model that fails its proof never
leaves the machine.
"""

import os
import tempfile
from pathlib import Path

from huggingface_hub import HfApi

from vitlet.console import Teller
from vitlet.errors import UsageError
from vitlet.jobs.exporting import export
from vitlet.jobs.options import Options
from vitlet.jobs.spread import by_first_rank
from vitlet.text import plural, printable
from vitlet.weights.card import licence_chain
from vitlet.weights.hub import HubName
from vitlet.weights.source import facts_of


@by_first_rank
def push(
    run: str | os.PathLike[str],
    *,
    to: str,
    images: str | os.PathLike[str] | None = None,
    private: bool = False,
    options: Options = Options(),
) -> str:
    """Export for timm, verify the export, and upload the folder.

    Args:
        run: A finished run, a model folder or `timm:NAME@FILE`.
        to: `hf://user/name`; created if it does not exist. The hub is taken from `HF_ENDPOINT`, the token from
            `HF_TOKEN` or `hf auth login`.
        images: Images to compare on; see `export`.
        private: Whether the repository is hidden from others: a new one is created so, a public one is refused.
        options: See `export`.

    Returns:
        The URL of the commit.

    Raises:
        UsageError: if the hub cannot be reached or refuses, or the repository is public and `private` is wanted.
        VitletError: as `export`; nothing is uploaded then.
    """
    name = HubName.parse(to)
    teller = Teller(quiet=options.quiet)
    for link in licence_chain(facts_of(run)):
        teller.say(f"licence: {link.what}: {link.licence}")
    with tempfile.TemporaryDirectory() as scratch:
        folder = export(run, out=Path(scratch) / name.name, images=images, options=options)
        files = sorted(p.name for p in folder.iterdir())
        teller.say(f"uploading {plural(len(files), 'file')} to {name}: {', '.join(files)}")
        try:
            hub = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="vitlet")
            hub.create_repo(name.repository, private=private, exist_ok=True)
            if private and not hub.repo_info(name.repository).private:  # one that was there stays as it is
                raise UsageError(
                    f"{name} is public",
                    why="It was there before, and --private makes only a new one private. Nothing was uploaded",
                    fix="make it private in its settings on the hub, give another name, or leave --private out",
                )
            commit = hub.upload_folder(
                repo_id=name.repository, folder_path=folder, commit_message="Upload with vitlet push"
            )
        except UsageError:
            raise
        except Exception as error:  # the client's exceptions for network errors differ between versions
            raise UsageError(
                f"{name} was not uploaded",
                why=printable(" ".join(str(error).split())[:300]) or type(error).__name__,
                fix="check the network, and the token's right to write there (hf auth login, or HF_TOKEN)",
            ) from error
    teller.say(f"uploaded: {printable(str(commit.commit_url))}")
    return str(commit.commit_url)
