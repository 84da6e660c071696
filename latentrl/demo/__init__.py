"""The main job: clone human handwriting with several policies, and compare two gradient estimators on Pendulum."""

from latentrl.demo.run import DemoConfig, run_demo

__all__ = ["DemoConfig", "run_demo"]
