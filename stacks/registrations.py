"""Holds everything back that a program registers until the whole of it is known and nothing speaks against it.

The SDK sends nothing while the program's own lines run: it takes note, and begins when they are done. So every resource
is given one more thing to wait for, and when the program is through, who has been told of all of them may refuse.
A run that is refused, or fails, has registered nothing but the stack itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pulumi

Registration = pulumi.ResourceTransformationArgs


@contextlib.contextmanager
def held(judge: Callable[[list[Registration]], Awaitable[None]]) -> Iterator[None]:
    """Holds back what is registered inside. `judge` gets all of it at the end; what it raises, the run ends with."""
    made: list[Registration] = []
    through: asyncio.Future[None] = asyncio.get_event_loop().create_future()

    async def decide() -> None:
        await through
        await judge(made)

    verdict = asyncio.ensure_future(decide())
    # An Output of nothing: to be waited for, and no dependency in the state.
    nothing: pulumi.Output[Any] = pulumi.Output.from_input(verdict)  # type: ignore[arg-type]
    waits = pulumi.ResourceOptions(depends_on=[nothing])

    def hold(args: Registration) -> pulumi.ResourceTransformationResult:
        if verdict.done():
            raise RuntimeError(f"{args.type_} {args.name}: made when the others had been judged")
        made.append(args)
        return pulumi.ResourceTransformationResult(args.props, pulumi.ResourceOptions.merge(args.opts, waits))

    pulumi.runtime.register_stack_transformation(hold)
    try:
        yield
    except BaseException as error:
        through.set_exception(error)
        raise
    through.set_result(None)
