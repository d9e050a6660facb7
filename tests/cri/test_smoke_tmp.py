from tests.cri.daemon import *
async def test_it(daemon: Daemon) -> None:
    await daemon.pull()
    pod = await daemon.run_pod()
    c = await daemon.run(pod)
    s = await daemon.status(c)
    print(s)
    await daemon.restart()
    print(await daemon.pod_status(pod))
    with refused(Status.NOT_FOUND, "container"):
        await daemon.status("nope")
