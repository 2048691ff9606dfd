"""Blue/green on one machine: a new instance first, then the proxy switches.

How an instance is run is the business of a `Runner` (a process, a container). What was started is
written down before it is started, so that whoever comes after a killed deploy knows what to stop.
The order is what makes it safe:

    start the new one → it answers → switch the proxy → the public URL answers
    → write down that it is live → drain the old one
"""

from __future__ import annotations

import contextlib
import secrets
import time
from pathlib import Path
from typing import Any

import msgspec

from tandem.errors import ImageFault, TandemError, TargetError
from tandem.service import client
from tandem.targets.local.children import end_process, process_alive, terminate
from tandem.targets.local.ports import HOST, free_port
from tandem.targets.local.runner import PortLost, Runner, judged_by_its_end
from tandem.targets.local.stable_port import StablePort
from tandem.targets.local.state import (
    Instance,
    State,
    StateFolder,
    is_left_behind,
    is_over,
    is_switching,
    retiring,
)
from tandem.targets.protocol import DeployRequest, Live, Say, ServiceCheck
from tandem.util import processes
from tandem.util.clock import now

KEEP = 10
"""Logs and unpacked images that stay, for a look back and for a quick way back."""


class BlueGreen:
    """A target of one machine: one public port, and instances behind it."""

    def __init__(self, runner: Runner, port: int, folder: Path) -> None:
        self.runner = runner
        self.port = port
        self.folder = folder
        self.name = f"{runner.scheme}:{port}"
        self.state = StateFolder(folder, self.name)
        self.stable = StablePort(runner.scheme, port, folder)

    def url(self) -> str:
        """Where users reach the service."""
        return self.stable.url

    def current(self) -> Live | None:
        """What is live.

        None where nothing is, where it died, or where a killed deploy left it undecided.
        """
        state = self.state.read()
        if state.live and self._serves(state):
            return self._live(state.live, state)
        return None

    def details(self) -> dict[str, Any]:
        """All there is to show of what is live."""
        live = self.current()
        return dict(live.detail) if live else {}

    def drift(self) -> list[str]:
        """What is otherwise than the last release left it."""
        state = self.state.read()
        if state.live is None:
            return []
        lines = []
        if not self.runner.alive(state.live):
            lines.append(f"the service of release {state.live.release} has stopped")
        if state.proxy is None or not process_alive(state.proxy.process):
            lines.append(f"the proxy of {self.url()} has stopped")
        elif not lines and not self._serves(state):
            lines.append(f"{self.url()} does not lead to release {state.live.release}")
        return lines

    def sweep(self) -> list[str]:
        """Clean up what a killed deploy or check left behind; see `Target.sweep`."""
        done = self.runner.sweep()
        if not is_left_behind(self.state.read()):
            return done
        with self.state.try_lock() as ours:
            # Read again with the lock: it may have been the work of a deploy that is done.
            if ours and is_left_behind(self.state.read()):
                self._recover(done.append)
        return done

    def deploy(
        self,
        request: DeployRequest,
        *,
        check: ServiceCheck,
        progress: Say,
        live: Live | None = None,
    ) -> Live:
        """Make the image live; see `Target.deploy`."""
        del live  # what is live is read with the lock
        with self.state.lock(progress):
            state = self._recover(progress)
            if unchanged := self._unchanged(state, request, check, progress):
                return unchanged
            prepared = self.runner.prepare(request, progress)
            if not self.stable.is_held_by(state.proxy):
                proxy = self.stable.open(progress)
                state = self.state.write(
                    msgspec.structs.replace(state, proxy=proxy, proxy_is_new=True)
                )
            return self._replace(state, request, prepared, check, progress)

    def manifests(self, request: DeployRequest) -> str:
        """There are none on one machine."""
        raise TargetError(
            f"{self.name} has no manifests: set TANDEM_TARGET=k8s://CONTEXT/NAMESPACE"
        )

    def stop(self, *, progress: Say) -> bool:
        """Stop the service and its proxy; False where there was nothing."""
        if not self.folder.is_dir():
            return False
        with self.state.lock(progress):
            state = self._recover(progress)
            was_there = bool(state.live or state.proxy or state.retiring)
            # The proxy first: it takes no new connection, and keeps those that are open while the
            # service drains.
            proxies = self.stable.proxies()
            for proxy in proxies:
                terminate(proxy)
            live = (state.live,) if state.live else ()
            state = self._retire(msgspec.structs.replace(state, live=None, proxy=None), *live)
            for ending in state.retiring:
                progress(f"waiting for release {ending.instance.release} to finish its work")
                while self.runner.alive(ending.instance) and not is_over(ending):
                    time.sleep(0.02)
                self.runner.kill(ending.instance)
            for proxy in proxies:
                end_process(proxy)
            self.stable.point_at(None)
            self.state.write(State())
            return was_there

    # Steps of a deploy

    def _replace(
        self,
        state: State,
        request: DeployRequest,
        prepared: Any,
        check: ServiceCheck,
        progress: Say,
    ) -> Live:
        try:
            return self._try(state, request, prepared, check, progress)
        except PortLost as problem:
            progress(f"trying once more on another port: {problem}")
            return self._try(self.state.read(), request, prepared, check, progress)

    def _try(
        self,
        state: State,
        request: DeployRequest,
        prepared: Any,
        check: ServiceCheck,
        progress: Say,
    ) -> Live:
        old = state.live if state.live and self.runner.alive(state.live) else None
        new = Instance(
            token=secrets.token_hex(8),
            digest=request.digest,
            reference=request.registry.reference(request.digest),
            release=request.release,
            env=dict(request.env),
            port=free_port(),
            started=now(),
            log="",
            command=request.command,
            inside=request.port,
        )
        log = self.folder.absolute() / "logs" / f"release-{request.release:06d}-{new.token}.log"
        new = msgspec.structs.replace(new, log=str(log))
        switched = False
        try:
            # Written down before it is there: whoever comes after a kill in between looks for its
            # token.
            state = self.state.write(
                msgspec.structs.replace(state, starting=new, deployer=processes.identity())
            )
            progress(
                f"starting release {request.release} beside "
                + (f"release {old.release}" if old else "nothing")
            )
            new = self.runner.start(new, prepared)
            state = self.state.write(msgspec.structs.replace(state, starting=new))
            private = f"http://{HOST}:{new.port}"
            took = client.wait_ready(
                private, request.deadline, lambda: self.runner.ended(new), path=request.health
            )
            progress(f"ready after {took:.1f} s; asking it")
            self._ask(check, private, new)
            switched = True
            self.stable.point_at(new)
            progress(f"switched {self.url()} to release {request.release}; asking again")
            self.stable.require_open(state.proxy)
            self._ask(check, self.url(), new)
        except BaseException as problem:
            tail = self.runner.log_tail(new)
            self._put_back(state, old, new, switched)
            after = f"release {old.release} is still live" if old else "nothing is live"
            if not isinstance(problem, Exception):
                raise
            why = str(problem) if isinstance(problem, TandemError | OSError) else repr(problem)
            # What it says of the image stays: that is a verdict, and all else is tried again.
            kept = isinstance(problem, ImageFault | PortLost)
            fault = type(problem) if kept else TargetError
            raise fault(
                f"release {request.release} did not go live, {after}: {why}"
                + (f"; its last log lines:\n{tail}" if tail else "; it logged nothing")
            ) from (None if isinstance(problem, TandemError) else problem)
        new = msgspec.structs.replace(new, live_since=now())
        # The proxy of another port ends before the state below says that all is done.
        if state.proxy_is_new and state.proxy:
            self.stable.end_others(state.proxy)
        # A dead predecessor is retired too: parts of it may have outlived it.
        gone = (state.live,) if state.live else ()
        if old:
            progress(f"release {old.release} finishes its open requests and ends")
        state = self._retire(
            msgspec.structs.replace(state, live=new, starting=None, proxy_is_new=False), *gone
        )
        with contextlib.suppress(OSError):
            self._tidy(state)
        return self._live(new, state)

    def _ask(self, check: ServiceCheck, url: str, instance: Instance) -> None:
        """The check; if it fails because the instance ended, that is what is wrong."""
        with judged_by_its_end(lambda: self.runner.ended(instance)):
            check(url)

    def _unchanged(
        self, state: State, request: DeployRequest, check: ServiceCheck, progress: Say
    ) -> Live | None:
        live = state.live
        if not (live and self._serves(state)):
            return None
        running = (live.digest, live.release, live.env, live.command, live.inside)
        env, port = dict(request.env), request.port
        if running != (request.digest, request.release, env, request.command, port):
            return None
        try:
            check(self.url())
        except TandemError as problem:
            progress(f"release {live.release} is live but does not answer as it should: {problem}")
            return None
        progress(f"release {live.release} is live already; nothing restarted")
        return self._live(live, state)

    def _put_back(self, state: State, old: Instance | None, new: Instance, switched: bool) -> None:
        state = msgspec.structs.replace(state, starting=None)
        if switched:
            self.stable.point_at(old)
            self._retire(state, new)
        else:
            self.runner.kill(new)
            self.state.write(state)

    def _recover(self, progress: Say) -> State:
        """Finish what a killed command left: the live one serves, all else is to end."""
        state = self.state.read()
        cut_off = state.starting
        if cut_off:
            progress(f"the deploy of release {cut_off.release} was cut off: stopping it")
            self.stable.point_at(state.live)
        state = self._retire(
            msgspec.structs.replace(state, starting=None), *((cut_off,) if cut_off else ())
        )
        left = []
        for ending in state.retiring:
            if self.runner.alive(ending.instance) and not is_over(ending):
                left.append(ending)
            else:
                self.runner.kill(ending.instance)
        return self.state.write(msgspec.structs.replace(state, retiring=tuple(left)))

    def _retire(self, state: State, *instances: Instance) -> State:
        """Write down that these are to end, and tell all that were not told yet."""
        ending = (*state.retiring, *map(retiring, instances))
        state = self.state.write(msgspec.structs.replace(state, retiring=ending))
        if all(candidate.told for candidate in state.retiring):
            return state
        for candidate in state.retiring:
            if not candidate.told:
                self.runner.terminate(candidate.instance)
        told = tuple(msgspec.structs.replace(candidate, told=True) for candidate in state.retiring)
        return self.state.write(msgspec.structs.replace(state, retiring=told))

    def _tidy(self, state: State) -> None:
        """Forget what no release from here on needs: old logs, old images."""
        logs = sorted((self.folder / "logs").glob("release-*.log"), key=lambda log: log.name)
        for log in logs[:-KEEP]:
            log.unlink()
        kept = [state.live, *(ending.instance for ending in state.retiring)]
        self.runner.tidy({instance.digest for instance in kept if instance})

    def _serves(self, state: State) -> bool:
        """Whether the proxy runs, leads to the live instance, and that one runs.

        While a deploy is switching, it leads to the next one, and may yet lead back.
        """
        live = state.live
        if not (live and self.stable.is_held_by(state.proxy)):
            return False
        right = [live]
        if state.starting and is_switching(state):
            right.append(state.starting)
        return self.stable.leads_to(*right) and self.runner.alive(live)

    def _live(self, instance: Instance, state: State) -> Live:
        return Live(
            url=self.url(),
            digest=instance.digest,
            reference=instance.reference,
            since=instance.live_since or instance.started,
            release=instance.release,
            switching=is_switching(state),
            detail={
                **self.runner.describe(instance),
                "draining": [
                    ending.instance.release
                    for ending in state.retiring
                    if self.runner.alive(ending.instance)
                ],
            },
        )
