// Package nodetest is what suites run real pods with: machines, which are network namespaces; keelson's program on them, as it
// was built; an image of tools; and the steps that most tests are made of.
//
// A package of suites has one Cluster, since starting it takes a while:
//
//	var cluster *nodetest.Cluster
//
//	func TestMain(m *testing.M) {
//		os.Exit(nodetest.Main(m, nodetest.Options{}, func(c *nodetest.Cluster) { cluster = c }))
//	}
//
//	func TestGreeting(t *testing.T) {
//		t.Parallel()
//		ns := cluster.Namespace(t)
//		require.Equal(t, "hello\n", cluster.Run(t, ns, nodetest.Pod("greeting", "echo", "hello")))
//	}
//
// Without root, without bin/keelson (`make build`) or on another system than Linux there is nothing to test, and Main says so
// and succeeds, unless KEELSON_REQUIRE_BINARIES is set.
//
// # What there is
//
// A Lab is a wire, a network namespace with a bridge, and machines on it: network namespaces with an address of 192.0.2.0/24
// on eth0 and a default route to the wire. Ports are therefore free to choose. The machines share the kernel, the file system
// and the list of processes with the machine that runs the test. Cluster.Outside runs a tool in the wire: a client that is no node.
//
// Each machine has its own data directory, cgroup, directory of logs and directory of static pods, all named after the Lab.
// The embedded runtime keeps its state in a directory of /run that is named after the data directory. The API server is
// reached from the test through a relay, a port of the loopback interface: some clients, remotecommand among them, cannot be
// told how to dial.
//
// Image has the tools of package toolbox by their usual names in /bin, with sh among them, a /tmp that all may write, and the
// users root and app (1000). It is in the store of each machine before the node starts: pods never pull.
//
// A machine may have Equipment: a real containerd that runs its pods, or plugins that make its network.
// PowerOff and PowerOn do to a machine what the loss of its power does: everything but its disk is new afterwards, the boot ID and
// the network, too.
//
// # The end
//
// Main deletes all pods, waits until they are gone, stops what runs, and then counts what is left on the machine: processes,
// mounts, cgroups, interfaces, files of the runtime's state. Anything fails the package. After a failure the data directory,
// with the log of each program, stays and is named.
//
// # Concurrency
//
// Tests of a package run in parallel, more of them than there are processors, since pods mostly wait. All methods of Cluster
// and Machine may be called from any goroutine, except those that start and end programs: a test that does so is the only one
// at that time.
package nodetest
