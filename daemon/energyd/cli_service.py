"""What can be typed after `energyd` to have it kept running, or to have it let go?

The commands that change a service, apart from those that people use every day (`energyd.cli`).
"""

from __future__ import annotations

import click

from energyd.exits import CONFIG, PERMISSION, fail

user_option = click.option("--user", is_flag=True, help="Your own service, without root.")


@click.command("install-service")
@user_option
@click.option("--now", is_flag=True, help="Start it too.")
@click.option("--dry-run", is_flag=True, help="Show every file and command, and change nothing.")
def install_service(user: bool, now: bool, dry_run: bool) -> None:
    """Have systemd keep energyd running: write, check and enable its unit.

    Example: sudo /opt/energyd/bin/energyd install-service --now
    """
    from energyd.install_service import InstallError, NotPermitted, carry_out, plan

    try:
        todo = plan(user, now)
        if dry_run:
            for path, text in todo.files.items():
                click.echo(f"# ---- {path}\n{text}")
            for command in todo.commands:
                click.echo(f"$ {' '.join(command)}")
            return
        carry_out(todo)
    except NotPermitted as error:
        fail(str(error), PERMISSION)
    except InstallError as error:
        fail(str(error), CONFIG)
    for path in todo.files:
        click.echo(f"wrote {path}", err=True)
    click.echo(
        "your own settings: `systemctl edit energyd`; these files are written anew each time", err=True
    )
    for step in todo.next_steps:
        click.echo(step, err=True)


@click.command("uninstall-service")
@user_option
def uninstall_service(user: bool) -> None:
    """Stop the service and take its files away. The store, and the user energyd, stay."""
    from energyd.install_service import InstallError, NotPermitted, remove

    try:
        gone = remove(user)
    except NotPermitted as error:
        fail(str(error), PERMISSION)
    except InstallError as error:
        fail(str(error), CONFIG)
    for path in gone:
        click.echo(f"removed {path}", err=True)
    if not gone:
        click.echo("no such service is installed", err=True)


COMMANDS = (install_service, uninstall_service)
