"""Kubeflow component of all that the hourly refresh does before it comes to a model, in one pod.

The steps are the training pipeline's own components, one after the other, with a record each: only the pods are fewer.
"""

from kfp import dsl

from components.image import TRAIN


@dsl.component(base_image=TRAIN, install_kfp_package=False)
def prepare(
    run_id: str,
    card: str,
    as_of: str,
    sequences: dsl.Output[dsl.Dataset],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> bool:
    """Ingest, hold the data against its card, join and fill the online store; False where the data gate blocked."""
    import shutil
    from pathlib import Path
    from tempfile import TemporaryDirectory
    from types import SimpleNamespace

    from components.features.component import features
    from components.ingest.component import ingest
    from components.materialise.component import materialise
    from components.resolve.component import resolve
    from components.validate.component import validate

    with TemporaryDirectory(prefix="prepare-") as folder:
        names = ("events", "facts", "champion", "reference", "validation", "materialised", "summary", "page")

        # Outputs as Kubeflow gives them: a place; and for numbers a list, where each step puts its name first.
        def numbers(step: str) -> SimpleNamespace:
            return SimpleNamespace(log_metric=lambda name, value: metrics.log_metric(f"{step} {name}", value))

        at = {name: SimpleNamespace(path=str(Path(folder) / name)) for name in names}
        run = {"run_id": run_id, "card": card}
        read = {"events": at["events"], "facts": at["facts"]}
        ingest.python_func(**run, as_of=as_of, events=at["events"], metrics=numbers("ingest"))
        found = {name: at[name] for name in ("events", "facts", "champion", "reference", "summary")}
        resolve.python_func(**run, as_of=as_of, new_reference=False, **found)
        accepted = validate.python_func(
            **run,
            **read,
            reference=at["reference"],
            validation=at["validation"],
            page=at["page"],
            metrics=numbers("validate"),
        )
        shutil.copyfile(at["page"].path, page.path)
        if not accepted:
            Path(sequences.path).mkdir(parents=True, exist_ok=True)
            return False
        features.python_func(**run, **read, sequences=sequences, metrics=numbers("features"))
        materialise.python_func(
            **run, **read, sequences=sequences, materialised=at["materialised"], metrics=numbers("materialise")
        )
    return True
