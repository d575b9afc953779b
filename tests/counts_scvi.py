"""Trains scvi-tools on counts, as a part of `tests/counts.py`. It runs in an environment of its own with scvi-tools.

    PYTHON tests/counts_scvi.py CELLS.npz RESULT.npz

CELLS.npz holds `x` (N, genes), the indices `train` and `test`, the settings `epochs`, `width`, `latent` and `seed`, and
`plain`: whether dropout and the warm-up of the KL, which scvi-tools has by default, are left out. RESULT.npz gets
`elbo`, of each test example in nats, `codes` (N, latent) of all examples, and `seconds` of training.
"""

import logging
import sys
import time
import warnings

import anndata
import numpy as np
import scvi


def main(cells: str, result: str) -> None:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    given = np.load(cells)
    scvi.settings.seed = int(given["seed"])
    data = anndata.AnnData(given["x"].astype(np.float32))
    train, test = (data[given[name]].copy() for name in ("train", "test"))
    scvi.model.SCVI.setup_anndata(train)
    plain = {"dropout_rate": 0.0} if given["plain"] else {}
    model = scvi.model.SCVI(
        train, n_latent=int(given["latent"]), n_hidden=int(given["width"]), n_layers=1, gene_likelihood="nb",
        use_observed_lib_size=True, **plain,
    )  # fmt: skip
    begin = time.perf_counter()
    model.train(
        max_epochs=int(given["epochs"]), train_size=1.0, batch_size=128, accelerator="cpu", logger=False,
        enable_progress_bar=False, plan_kwargs={"n_epochs_kl_warmup": None} if given["plain"] else {},
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    elbo = np.mean([np.asarray(model.get_elbo(test, return_mean=False)) for _ in range(20)], axis=0)
    np.savez(result, elbo=elbo, codes=model.get_latent_representation(data), seconds=seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
