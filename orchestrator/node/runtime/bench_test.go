//go:build linux && cgo

package runtime_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// life of a pod of one container, until it runs.
func (n *node) live(ref string) string {
	pod := n.pod()
	n.start(pod, ref, "pause")
	return pod
}

// BenchmarkPods starts pods of one container, one after the other or 30 at once: the time is from RunPodSandbox to the
// return of StartContainer of the last one. Memory is that of a shim, on the side of the kernel.
func BenchmarkPods(b *testing.B) {
	for _, at := range []int{1, 30} {
		b.Run(fmt.Sprintf("at=%d", at), func(b *testing.B) {
			n := newNode(b)
			ref := n.withImage()
			ids := make([]string, at)
			for b.Loop() {
				var work sync.WaitGroup
				for i := range ids {
					work.Go(func() { ids[i] = n.live(ref) })
				}
				work.Wait()
				b.StopTimer()
				b.ReportMetric(float64(n.pss(ids[0])), "shim-bytes")
				n.remove(ids...)
				b.StartTimer()
			}
			b.ReportMetric(float64(b.N*at)/b.Elapsed().Seconds(), "pods/s")
		})
	}
}

// pss is the memory of a sandbox's shim, in bytes: its own, and its share of what several have.
func (n *node) pss(pod string) (bytes int) {
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", n.shimPid(pod)))
	for line := range strings.Lines(string(data)) {
		if _, err := fmt.Sscanf(line, "Pss: %d kB", &bytes); err == nil {
			return bytes << 10
		}
	}
	return 0
}

// BenchmarkExecSync runs a command in a container that runs.
func BenchmarkExecSync(b *testing.B) {
	n := newNode(b)
	ref := n.withImage()
	pod := n.pod()
	id := n.start(pod, ref, "pause")
	for b.Loop() {
		if _, err := n.ExecSync(b.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/box", "out", "x"}}); err != nil {
			b.Fatal(err)
		}
	}
	n.remove(pod)
}
