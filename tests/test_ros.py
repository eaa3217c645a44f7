"""The Interbotix adapter against small strict stand-ins for ROS 1 and 2: topics, message fields, and silence."""

import sys
import time
import types

import numpy as np
import pytest

from clamp_jax.deploy.robots import Robot, RobotLost, arms
from clamp_jax.deploy.robots.ros import Ros
from clamp_jax.geometry import aloha

HOME = np.tile([*aloha.HOME_COMMAND[:6], 0.5], 2)


def _message(kind, /, **fields):
    """A message class that has these fields and takes nothing else, nor another type."""

    def set_field(self, field, value):
        if field not in fields:
            raise AttributeError(f"{kind} has no field {field!r}")
        if not isinstance(value, fields[field]):
            raise AssertionError(f"{kind}.{field} must be {fields[field]}, not {type(value)}")
        if fields[field] is list:
            assert all(type(each) in (float, str) for each in value)
        object.__setattr__(self, field, value)

    def init(self):
        for field, kind in fields.items():
            object.__setattr__(self, field, kind())

    return type(kind, (), {"__slots__": tuple(fields), "__init__": init, "__setattr__": set_field})


class Node:
    """Carries messages between publishers and subscriptions of one process."""

    def __init__(self):
        self.heard, self.said = {}, {}

    def create_publisher(self, kind, topic, depth):
        sent = self.said.setdefault(topic, [])

        def publish(message):
            assert type(message) is kind
            sent.append(message)

        return types.SimpleNamespace(publish=publish)

    def create_subscription(self, kind, topic, callback, depth):
        self.heard[topic] = (kind, callback)

    def destroy_node(self):
        pass


class Executor:
    def __init__(self, context):
        pass

    def add_node(self, node):
        pass

    def spin_once(self, timeout_sec):
        time.sleep(0.005)


class Context:
    def __init__(self):
        self.on = False


def ros2(node):
    """Modules of ROS 2."""
    rclpy = types.SimpleNamespace(
        context=types.SimpleNamespace(Context=Context),
        executors=types.SimpleNamespace(SingleThreadedExecutor=Executor),
        init=lambda context: setattr(context, "on", True),
        ok=lambda context: context.on,
        shutdown=lambda context: setattr(context, "on", False),
        create_node=lambda name, context: node,
    )
    return {"rclpy": rclpy}


def ros1(node):
    """Modules of ROS 1, where topics are objects that are given back and a process has one node."""
    node.begun, node.open, node.master = [], [], True

    def end(topic):
        node.open.append(topic)
        return lambda: node.open.remove(topic)

    def publisher(topic, kind, queue_size, tcp_nodelay):
        assert node.begun and queue_size == 1 and tcp_nodelay
        return types.SimpleNamespace(publish=node.create_publisher(kind, topic, 1).publish, unregister=end(topic))

    def subscriber(topic, kind, hear, queue_size, tcp_nodelay):
        assert node.begun and queue_size == 1 and tcp_nodelay
        node.create_subscription(kind, topic, hear, 1)
        return types.SimpleNamespace(unregister=end(topic))

    def init_node(name, anonymous, disable_signals):
        node.begun.append((name, anonymous, disable_signals))
        assert len(set(node.begun)) == 1, "a process has one node"

    rospy = types.SimpleNamespace(init_node=init_node, Publisher=publisher, Subscriber=subscriber)
    return {"rospy": rospy, "rosgraph": types.SimpleNamespace(is_master_online=lambda: node.master)}


ROBOTS = {1: "puppet", 2: "follower"}


@pytest.fixture(params=[1, 2])
def ros(request, monkeypatch):
    """(version, node, publish the joint states of an arm)."""
    version, node = request.param, Node()
    monkeypatch.setenv("ROS_VERSION", str(version))
    joint_state = _message("JointState", name=list, position=list, velocity=list, effort=list)
    group = _message("JointGroupCommand", name=str, cmd=list)
    single = _message("JointSingleCommand", name=str, cmd=float)
    modules = {1: ros1, 2: ros2}[version](node) | {
        "sensor_msgs.msg": types.SimpleNamespace(JointState=joint_state),
        "interbotix_xs_msgs.msg": types.SimpleNamespace(JointGroupCommand=group, JointSingleCommand=single),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    for parent in ("sensor_msgs", "interbotix_xs_msgs"):
        monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))

    def tell(side, joints, names=(*aloha.ARM_JOINTS, "gripper"), turned=False):
        message = joint_state()
        values = [*joints[:6], arms.horn_from_gripper(joints[6])]
        order = -1 if turned else 1
        message.name, message.position = list(names)[::order], [float(value) for value in values][::order]
        node.heard[f"/{ROBOTS[version]}_{side}/joint_states"][1](message)

    create = node.create_subscription

    def subscribe(kind, topic, callback, depth):
        create(kind, topic, callback, depth)
        tell(topic.split("/")[1].removeprefix(f"{ROBOTS[version]}_"), HOME[:7])

    node.create_subscription = subscribe
    return version, node, tell


def test_joints_are_read_by_name_and_commands_go_to_the_stacks_topics(ros):
    version, node, tell = ros
    with Ros() as robot:
        assert isinstance(robot, Robot)
        wanted = HOME + np.linspace(-0.1, 0.1, 14)
        tell("left", wanted[:7], turned=True)
        tell("right", wanted[7:])
        np.testing.assert_allclose(robot.joints(), wanted, atol=1e-9)
        robot.command(wanted)
    for side, part in (("left", wanted[:7]), ("right", wanted[7:])):
        group = node.said[f"/{ROBOTS[version]}_{side}/commands/joint_group"][-1]
        single = node.said[f"/{ROBOTS[version]}_{side}/commands/joint_single"][-1]
        assert group.name == "arm" and group.cmd == part[:6].tolist()
        assert single.name == "gripper" and single.cmd == pytest.approx(arms.horn_from_gripper(part[6]))


def test_an_arm_that_falls_silent_is_named(ros):
    version, _, tell = ros
    with Ros() as robot:
        time.sleep(0.25)
        tell("left", HOME[:7])
        with pytest.raises(RobotLost, match=f"right arm: nothing on /{ROBOTS[version]}_right/joint_states for 0"):
            robot.joints()


def test_joint_states_that_lack_a_joint_or_are_no_numbers_are_refused(ros):
    _, _, tell = ros
    with Ros() as robot:
        tell("right", HOME[7:])
        tell("left", HOME[:7], names=("waist", "shoulder", "elbow", "a", "b", "c", "gripper"))
        with pytest.raises(RobotLost, match="left arm: its joint states lack \\['forearm_roll', 'wrist_angle', 'wrist_rotate'\\]"):
            robot.joints()
        tell("left", [np.nan, *HOME[1:7]])
        with pytest.raises(RobotLost, match="left arm: its joint states are .*finite"):
            robot.joints()
        with pytest.raises(ValueError, match="14 finite"):
            robot.command(np.full(14, np.nan))


@pytest.mark.parametrize("ros", [1], indirect=True)
def test_ros_1_gives_its_topics_back_keeps_its_node_and_does_not_wait_for_a_master(ros, monkeypatch):
    _, node, _ = ros
    for _ in range(2):
        with Ros():
            assert len(node.open) == 6 and "/puppet_left/commands/joint_single" in node.open
        assert node.open == [] and node.begun[-1] == ("clamp_jax", True, True)
    node.master = False
    monkeypatch.setenv("ROS_MASTER_URI", "http://lab:11311")
    with pytest.raises(RobotLost, match="no ROS master answers .*http://lab:11311"):
        Ros()


def test_arms_of_other_names_and_a_version_that_is_asked_for(ros, monkeypatch):
    version, node, _ = ros
    monkeypatch.setenv("ROS_VERSION", str(3 - version))
    with Ros({side: f"{ROBOTS[version]}_{side}" for side in aloha.SIDES}, version=version):
        assert f"/{ROBOTS[version]}_left/joint_states" in node.heard
    with pytest.raises(ValueError, match="version of ROS is 3; expected 1 or 2"):
        Ros(version=3)


@pytest.mark.parametrize("version", [1, 2])
def test_without_ros_it_says_what_is_needed(version):
    with pytest.raises(ImportError, match=f"needs a sourced ROS {version} with the Interbotix"):
        Ros(version=version)
