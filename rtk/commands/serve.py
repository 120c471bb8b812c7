"""`rtk serve`: a packaged run behind HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rtk.commands.parsers import Options, Parsers, add_command, add_json, add_plugin, natural, positive

PORT = 8000
MOST_MIB = 32  # of a request
KEPT = 1000  # images
TIMES = 16  # so many of the largest may be answered at once


def add(commands: Parsers) -> None:
    """The parser of `rtk serve`."""
    parser = add_command(
        commands,
        "serve",
        run,
        "answer over HTTP what images show, and whether to trust it, and count the decisions",
        """rtk serve RUN
        curl --data-binary @photo.jpg http://127.0.0.1:8000/predict
        curl http://127.0.0.1:8000/status                              decisions so far, beside those expected
        RTK_SERVE_TOKEN=SECRET rtk serve models:/flowers/1 --host 0.0.0.0
        curl --header "Authorization: Bearer SECRET" --data-binary @photo.jpg http://HOST:8000/predict""",
    )
    parser.add_argument("model", help="evaluated run, what rtk export wrote, or an MLflow URI")
    parser.add_argument("--host", default="127.0.0.1", help="to listen at (default: 127.0.0.1)")
    parser.add_argument("--port", type=natural, default=PORT, help=f"default: {PORT}; 0: a free one")
    parser.add_argument("--output", default="runs", metavar="DIR", help="folder of runs and mlflow.db")
    parser.add_argument("--device", metavar="NAME", help="such as cuda:1 (default: a GPU, if there is one)")
    parser.add_argument("--threads", type=positive, metavar="N", help="of the CPU (default: all there are)")
    parser.add_argument(
        "--max-mib", type=positive, default=MOST_MIB, metavar="N", help=f"of a request (default: {MOST_MIB})"
    )
    parser.add_argument(
        "--token-sha256",
        metavar="HEX",
        help="hash of the token that requests bring (default: of the variable RTK_SERVE_TOKEN; beyond this "
        "machine there has to be one)",
    )
    parser.add_argument(
        "--keep", metavar="DIR", help="keep a sample of the images there, to label and calibrate on"
    )
    parser.add_argument(
        "--keep-images", type=positive, default=KEPT, metavar="N", help=f"how many (default: {KEPT:,})"
    )
    parser.add_argument("--tls-certificate", type=Path, metavar="FILE", help="answer over HTTPS")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="of the certificate")
    add_plugin(parser, "what the model was exported with")
    add_json(parser)


def run(options: Options) -> int:
    """`rtk serve`; it ends by a signal, and then as every command."""
    from rtk.deploy.predict import open_model
    from rtk.deploy.serving.access import check_exposure, token_hash
    from rtk.deploy.serving.app import Service, make_app
    from rtk.deploy.serving.requests import MIB, Limits
    from rtk.deploy.serving.sample import Sample
    from rtk.deploy.serving.server import address_of, listen, make_server
    from rtk.runtime.interrupts import raise_termination

    sha256, tls = token_hash(options.token_sha256), _tls(options)
    check_exposure(options.host, sha256)
    threads = _threads(options.threads)
    raise_termination()
    with listen(options.host, options.port) as listener:  # before a model is loaded in vain
        model = open_model(options.model, options.output, options.plugin, options.device)
        limits = Limits(options.max_mib * MIB, TIMES * options.max_mib * MIB)
        sample = Sample(options.keep, options.keep_images, model.classes) if options.keep else None
        app = make_app(Service(model, limits, sha256, threads, sample))
        url = address_of(listener, tls is not None)
        said = {"url": url, "origin": model.origin, "needs_token": sha256 is not None}
        said |= {"kept": str(sample.folder)} if sample else {}
        if options.json:
            print(json.dumps(said), flush=True)  # one line, for its reader waits for no end
        else:
            _print_start(said, len(model.classes), model.rule.promise())
        make_server(app, options.host, sha256 is not None, tls).run(sockets=[listener])
    return 0


def _threads(wanted: int | None) -> int:
    """CPU threads of the network; this one, which loads it, takes none of them (`rtk.runtime.threads`)."""
    import torch

    from rtk.runtime.environment import available_cpus

    torch.set_num_threads(1)
    return wanted or available_cpus()


def _tls(options: Options) -> tuple[Path, Path] | None:
    """Certificate and key, which have to be there and to fit before anything is loaded."""
    import ssl

    from rtk.config.errors import ConfigError

    if options.tls_certificate is None and options.tls_key is None:
        return None
    if options.tls_certificate is None or options.tls_key is None:
        raise ConfigError("--tls-certificate and --tls-key: got one of them, wanted both")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            options.tls_certificate, options.tls_key, password=lambda: ""
        )
    except (OSError, ValueError) as error:
        given = f"--tls-certificate {options.tls_certificate} --tls-key {options.tls_key}"
        wanted = "wanted PEM files of a certificate and of its key, without a password"
        raise ConfigError(f"{given}: {wanted} ({error})") from None
    return options.tls_certificate, options.tls_key


def _print_start(said: dict[str, Any], classes: int, promise: str) -> None:
    from rtk.runtime.console import printable

    origin, url = said["origin"], said["url"]
    token = ' --header "Authorization: Bearer $RTK_SERVE_TOKEN"' if said["needs_token"] else ""
    print(printable(f"serving {origin['run']}, step {origin['step']}, {classes} classes: {url}"))
    print(printable(promise))
    print(f"try: curl{token} --data-binary @photo.jpg {url}/predict")
    if "kept" in said:
        print(printable(f"keeping a sample of the images in {said['kept']}"))
    print(f"watch: {url}/status, {url}/metrics (Prometheus). Ctrl-C ends it.", flush=True)
