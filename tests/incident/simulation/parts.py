"""Demands and machines that a test makes up, and the rules that they are served under."""

from hypothesis import strategies as st

from lmx_ledger.incident.rules import Course, course
from lmx_ledger.incident.simulation.demand import ANSWERED, FAILED, LEFT, REFUSED, Demand, Job, Speed
from lmx_ledger.incident.simulation.machine import Machine, Move, Outage, Weights
from lmx_ledger.incident.simulation.run import Result, Simulation

MODELS = ("a", "b", "c")
LAYER = 1_000_000
MB = 1_000_000


def job(number: int, came_s: float, **fields: object) -> Job:
    """One request; what is not said is usual."""
    told: dict[str, object] = {
        "model": "a",
        "session": f"s{number}",
        "lead_s": 0.001,
        "fetch_s": 0.0,
        "size": 1,
        "priority": 0,
        "prompt": 200,
        "room": 220,
        "read_s": 0.1,
        "drawn_s": 0.2,
        "fate": ANSWERED,
        **fields,
    }
    return Job(id=f"r{number:04}", came_s=came_s, **told)  # type: ignore[arg-type]


def rules(**given: object) -> Course:
    """`queue__max_running=2` and so on."""
    return course((), {name.replace("__", "."): str(value) for name, value in given.items()})


def serve(jobs: list[Job], machine: Machine | None = None, *, company: float = 0.0, **given: object) -> Result:
    """What becomes of them, from the beginning of a run on."""
    speeds = dict.fromkeys(MODELS, Speed(0.5, 10.0, company))
    ordered = sorted(jobs, key=lambda one: (one.came_s, one.id))
    return Simulation(Demand(ordered, speeds), machine or Machine(), rules(**given), 0).run()


def weights(name: str, layers: int = 8, **fields: object) -> Weights:
    """A model of so many layers of a megabyte."""
    told: dict[str, object] = {"token": 1_000.0, "busy": 0, "load_s": 0.5, "there": True, **fields}
    return Weights(name, layers=(LAYER,) * layers, **told)  # type: ignore[arg-type]


def storm(limit: int, layers: int = 8) -> Machine:
    """Three models, none of which is loaded before it is asked for."""
    models = {name: weights(name, layers, there=False) for name in MODELS}
    return Machine(models=models, limit=limit, page_in=Move(0.002, 2e-9), page_out=Move(0.001, 1e-9))


@st.composite
def jobs(draw: st.DrawFn, most: int = 40) -> list[Job]:
    """Requests of all kinds to three models, some of one conversation."""
    found = []
    for number in range(draw(st.integers(1, most))):
        fate = draw(st.sampled_from([ANSWERED, ANSWERED, ANSWERED, FAILED, LEFT, REFUSED]))
        prompt = draw(st.integers(1, 3_000))
        found.append(
            job(
                number,
                draw(st.floats(0, 20)),
                model=draw(st.sampled_from(MODELS)),
                session=draw(st.sampled_from(["s1", "s2", None])),
                size=draw(st.integers(1, 2)),
                priority=draw(st.integers(-1, 1)),
                prompt=prompt,
                room=prompt + draw(st.integers(1, 500)),
                read_s=draw(st.floats(0, 2)),
                drawn_s=draw(st.floats(0, 2)),
                fate=fate,
                code=draw(st.sampled_from(["backpressure", "invalid_request", "queue_full"]))
                if fate == REFUSED
                else "",
                left_s=draw(st.floats(0, 5)) if fate in {FAILED, LEFT} else None,
            )
        )
    return found


outages = st.lists(
    st.tuples(st.sampled_from(MODELS), st.floats(0, 20), st.floats(0, 2), st.floats(0, 5)).map(
        lambda told: Outage(told[0], told[1], told[1] + told[2], told[1] + told[2] + told[3])
    ),
    max_size=2,
    unique_by=lambda out: out.model,
)
"""Workers that are away for a while."""
