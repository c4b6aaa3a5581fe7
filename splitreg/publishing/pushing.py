"""``push``: upload a bundle to the Hugging Face Hub in one commit."""

from __future__ import annotations

from pathlib import Path

from splitreg.bundle import Bundle
from splitreg.errors import HubError
from splitreg.hub import HubPlace, hub_errors, library


def push(bundle: str | Path, place: str, *, private: bool = False, message: str = "") -> str:
    """Upload a bundle to a repository on the Hub, which is created if it does not exist.

    All files go into one commit, so readers see the old bundle or the new one. Files of an older bundle
    that the new one does not have are removed.

    Args:
        bundle: the folder; its files are checked first.
        place: ``hf:ORG/NAME``, or ``hf:ORG/NAME@BRANCH``; the branch is created if it does not exist.
        private: create a private repository.
        message: of the commit.

    Returns:
        The place with the new commit, ``hf:ORG/NAME@COMMIT``.

    Raises:
        BundleError: a file of the bundle is missing or altered.
        HubError: the token may not write there, there is no connection, or the place has another form.
        MissingExtra: ``huggingface_hub`` is not installed.
    """
    target, source = HubPlace.parse(place), Bundle.open(bundle)
    if target.file:
        raise HubError(f"{place} is a file; push a bundle to hf:ORG/NAME or hf:ORG/NAME@BRANCH")
    for name in source.config.files:
        source.check(name)
    hub = library()
    names = ("config.json", *source.config.files)
    with hub_errors(f"cannot push {source.folder} to {target}", target):
        api = hub.HfApi(library_name="splitreg")
        api.create_repo(target.repo, private=private or None, exist_ok=True)
        if target.revision is not None:
            api.create_branch(target.repo, branch=target.revision, exist_ok=True)
        old = set(api.list_repo_files(target.repo, revision=target.revision)) - {*names, ".gitattributes"}
        # upload_folder may write several commits; a reader in between would see half of a bundle
        commit = api.create_commit(
            target.repo,
            [
                *(hub.CommitOperationDelete(path_in_repo=name) for name in sorted(old)),
                *(hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=source.folder / name) for name in names),
            ],
            commit_message=message or f"Upload model {source.config.id} with splitreg",
            revision=target.revision,
        )
    return str(HubPlace(repo=target.repo, revision=commit.oid))
