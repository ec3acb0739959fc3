"""`avatarmod enqueue`."""

from __future__ import annotations

import json

import click

from producer.client import Producer
from producer.contract import check_upload_id


@click.command("enqueue")
@click.argument("upload_ids", nargs=-1, required=True, metavar="ID...")
@click.option("--image", help="Where the bytes are: a name in the store, s3://... or https://...")
@click.option("--region", type=click.Choice(["domestic", "overseas"]), help="Who may review it.")
@click.option(
    "--priority", type=click.Choice(["high", "normal", "low"]), default="normal", show_default=True
)
@click.option("--callback-url", help="Who hears of it, instead of AVATARMOD_CALLBACK_URL.")
@click.option("--subject", help="Whose they are: your id of the person, kept as a keyed hash.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def enqueue(
    upload_ids: tuple[str, ...],
    image: str | None,
    region: str | None,
    priority: str,
    callback_url: str | None,
    subject: str | None,
    as_json: bool,
) -> None:
    """Put uploads into the queue; an id that is already known changes nothing."""
    if image and len(upload_ids) > 1:
        raise click.UsageError("--image names one picture; give one ID with it")
    for upload_id in upload_ids:
        check_upload_id(upload_id)
    producer = Producer.connect()
    answers = [
        producer.enqueue(
            upload_id,
            image,
            region=region,
            priority=priority,
            callback_url=callback_url,
            subject=subject,
        )
        for upload_id in upload_ids
    ]
    if as_json:
        click.echo(
            json.dumps(
                [
                    {
                        "upload_id": answer.avatar.upload_id,
                        "state": answer.avatar.state,
                        "created": answer.created,
                    }
                    for answer in answers
                ]
            )
        )
        return
    for answer in answers:
        note = "accepted" if answer.created else "known already"
        click.echo(f"{answer.avatar.upload_id}  {answer.avatar.state}  ({note})")
