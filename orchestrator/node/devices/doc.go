// Package devices hands the devices of plugins to containers: the device plugin API of Kubernetes, v1beta1.
//
// # Model
//
// A plugin is a process of somebody else that knows one kind of device. It registers at Dir/kubelet.sock with the name of a
// resource ("vendor.example/gpu") and a socket of its own beside it, and then tells its devices and their health for as long as a stream
// lasts. All its devices are the node's capacity, the healthy ones are allocatable. When the stream ends none is healthy any more;
// after a while without the plugin the node has none.
//
// A pod that asks for devices gets them before anything of it runs, and keeps them until it ends:
//
//	choose (the plugin may say what it prefers) ─> Allocate ─> variables, mounts, device files, annotations of the container
//
// Init containers hand theirs on to the containers that come after them. What was allocated is written to Dir/allocations.json before a
// container can use it, with the plugin's answer, so that an agent that starts again gives the same to containers that restart, and to
// nobody else, whether the plugin is back or not.
//
// When the server starts, sockets of plugins are removed: by that they notice that they have to register again.
//
// # Left out
//
// Devices are not chosen by where they are (NUMA). CDI devices are passed on to the runtime.
// There is no PodResources API.
//
// # Concurrency
//
// All methods may be called from any goroutine; Run once. Allocations wait for each other: each sees what the one before has taken. A
// goroutine follows each plugin. Nothing is asked of a plugin under the lock that capacity is read with.
package devices
