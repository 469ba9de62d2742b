"""What concerns images and recipes alone."""

from pathlib import Path

from rich.console import Console

from vitlet.arguments import Share, Shared, chosen_recipe, existing


def check(data: Path, *, out: Path | None = None, max_bad: Share = 0.01) -> None:
    """Decode every image once and report what is unreadable, odd, doubled, leaking or unbalanced.

    Parameters
    ----------
    data: Folder, CSV or Parquet manifest, or Hugging Face Parquet.
    out: Folder for data_check.json and bad_files.csv.
    max_bad: Share of unreadable images that passes.
    """
    existing(data)
    from vitlet.jobs.options import Options
    from vitlet.jobs.output import check_data

    check_data(data, out=out, options=Options(max_bad=max_bad))


def recipes(name: str | None = None) -> None:
    """List the recipes, or show every effective value of one.

    Parameters
    ----------
    name: A recipe, or the recipe.json of a run.
    """
    from vitlet.recipes import all_recipes
    from vitlet.run import to_json_bytes

    out = Console(highlight=False, soft_wrap=True)
    if name is not None:
        recipe = chosen_recipe(name, Shared())
        out.print(all_recipes()[recipe.name].__doc__ or "", markup=False)
        out.print(to_json_bytes(recipe.to_json()).decode(), markup=False)
        return
    known = all_recipes()
    width = max(map(len, known)) + 2
    for title, function in known.items():
        out.print(f"{title:{width}}{(function.__doc__ or '').splitlines()[0]}", markup=False)
