//go:build linux

package crisuite

import (
	"fmt"
	"sync"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Bench starts pods of one container, one after the other and 30 at once, as an agent does: the time is from RunPodSandbox to the
// return of the last StartContainer. Their removal is not measured.
func Bench(b *testing.B, target Target) {
	s := connect(b, target)
	s.pull(b, "box")
	for _, at := range []int{1, 30} {
		b.Run(fmt.Sprintf("at=%d", at), func(b *testing.B) {
			for b.Loop() {
				var work sync.WaitGroup
				ids := make([]string, at)
				for i := range ids {
					work.Go(func() { ids[i] = s.live(b) })
				}
				work.Wait()
				b.StopTimer()
				for _, id := range ids {
					work.Go(func() { s.remove(b, id) })
				}
				work.Wait()
				b.StartTimer()
			}
			b.ReportMetric(float64(b.N*at)/b.Elapsed().Seconds(), "pods/s")
		})
	}
}

// live runs a pod with a container that waits, and answers the sandbox. A failure is told, not fatal: it is not on the benchmark's
// own goroutine.
func (s *suite) live(b *testing.B) string {
	config := s.podConfig(b)
	out, err := s.rt.RunPodSandbox(ctx(b), &runtimeapi.RunPodSandboxRequest{Config: config})
	if err != nil {
		b.Error(err)
		return ""
	}
	id, err := s.create(b, &pod{out.PodSandboxId, config}, s.config([]string{"sleep"}))
	if err == nil {
		_, err = s.rt.StartContainer(ctx(b), &runtimeapi.StartContainerRequest{ContainerId: id})
	}
	if err != nil {
		b.Error(err)
	}
	return out.PodSandboxId
}

func (s *suite) remove(b *testing.B, id string) {
	if _, err := s.rt.StopPodSandbox(ctx(b), &runtimeapi.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		b.Error(err)
	}
	if _, err := s.rt.RemovePodSandbox(ctx(b), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		b.Error(err)
	}
}
