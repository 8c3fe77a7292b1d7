package kube

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/keelson-io/keelson/orchestrator/cluster"
	"github.com/keelson-io/keelson/orchestrator/cluster/clustertest"
)

// TestAPI runs all phases at a small scale. Of the fan-out, no stream may be dropped and no event be lost.
func TestAPI(t *testing.T) {
	c := clustertest.Start(t)
	for _, content := range []string{JSON, Protobuf} {
		target, err := Connect(c.Kubeconfig, content, 4)
		require.NoError(t, err)
		o := APIOptions{Objects: 120, ObjectBytes: 1000, Clients: 4, Duration: 50 * time.Millisecond, Streams: 40, Updates: 250, Idle: time.Millisecond}
		want := Phases()
		if content == Protobuf {
			want = []string{"create", "apply", "list-pages", "fan-out"}
			o.Phases = want
		}
		var names []string
		require.NoError(t, API(context.Background(), target, o, func(r *Result) {
			names = append(names, r.Workload)
			require.Zero(t, r.Errors, "%s: %s", r.Workload, r.LastError)
			require.Positive(t, r.Servers.PeakBytes, r.Workload)
			switch r.Workload {
			case "idle", "idle-after":
			case "create", "delete":
				require.EqualValues(t, o.Objects, r.Ops)
			case "fan-out":
				require.EqualValues(t, o.Streams*o.Updates, r.Ops)
			default:
				require.Positive(t, r.Ops, r.Workload)
			}
			var line bytes.Buffer
			r.Line(&line)
			require.Contains(t, line.String(), r.Workload)
		}), content)
		require.Equal(t, want, names)
	}
}

// TestPages reads a list in pages to its end, in both encodings.
func TestPages(t *testing.T) {
	c := clustertest.Start(t)
	for _, content := range []string{JSON, Protobuf} {
		target, err := Connect(c.Kubeconfig, content, 1)
		require.NoError(t, err)
		r := &run{Target: target}
		next, pages := "", 0
		for more := true; more; more = next != "" {
			b, err := target.core(0).Get().AbsPath("/apis/rbac.authorization.k8s.io/v1/clusterroles").Param("limit", "20").Param("continue", next).DoRaw(context.Background())
			require.NoError(t, err)
			next = r.next(b)
			pages++
		}
		require.Greater(t, pages, 2, content)
	}
}

// TestLives starts and ends pods on a hollow node.
func TestLives(t *testing.T) {
	c := clustertest.Start(t, clustertest.HollowNodes(1))
	target, err := Connect(c.Kubeconfig, Protobuf, 1)
	require.NoError(t, err)
	var names []string
	o := LivesOptions{Image: "web:1", Pods: 6, AtOnce: 3, Patience: time.Minute}
	require.NoError(t, Lives(t.Context(), target, o, func(r *Result) {
		names = append(names, r.Workload)
		require.Zero(t, r.Errors, r.LastError)
		require.EqualValues(t, 6, r.Ops)
	}))
	require.Equal(t, []string{"start-1", "end-1", "start-3", "end-3"}, names)
	o.Image, o.Patience = "web:1", time.Nanosecond
	require.Error(t, Lives(t.Context(), target, o, func(*Result) {}), "a pod that is never ready in time")
	require.Error(t, (&LivesOptions{Pods: 1, AtOnce: 1, Patience: 1}).Check())
}

func TestSchedule(t *testing.T) {
	c := clustertest.Start(t, clustertest.HollowNodes(6), func(o *cluster.Options) { o.HollowZones, o.HollowUnstarted = 3, true })
	target, err := Connect(c.Kubeconfig, JSON, 2)
	require.NoError(t, err)
	for _, w := range Workloads() {
		o := ScheduleOptions{Nodes: 6, Pods: 6, Workload: w[0], Clients: 3, Quiet: time.Minute}
		s, err := Schedule(context.Background(), target, o)
		require.NoError(t, err, w[0])
		require.Equal(t, 6, s.Bound, w[0])
		require.Positive(t, s.Rate, w[0])
		require.Positive(t, s.AttemptP99, w[0])
		s.Line(io.Discard)
		require.Eventually(t, func() bool { return target.namespace(context.Background(), namespaceName) == nil }, time.Minute, 100*time.Millisecond)
		require.NoError(t, target.remove(context.Background(), namespaceName))
	}
}

func TestRefuses(t *testing.T) {
	require.ErrorContains(t, (&APIOptions{Phases: []string{"nonsense"}}).Check(), "there are: idle create")
	require.ErrorContains(t, (&APIOptions{}).Check(), "more than 0")
	require.ErrorContains(t, (&ScheduleOptions{Workload: "nonsense"}).Check(), "there are: plain")
	require.ErrorContains(t, (&ScheduleOptions{Workload: "preemption", Nodes: 2, Pods: 3, Clients: 1, Quiet: 1}).Check(), "no room")
	_, err := Connect("nowhere", JSON, 1)
	require.Error(t, err)
}

// TestQuantile estimates from a histogram as Prometheus does.
func TestQuantile(t *testing.T) {
	before := buckets{bounds: []float64{1, 2, 4}, counts: []float64{5, 5, 5}}
	b := buckets{bounds: []float64{1, 2, 4}, counts: []float64{5, 15, 25}}.minus(before)
	require.InDelta(t, 2.0, b.quantile(0.5), 1e-9)
	require.InDelta(t, 1.5, b.quantile(0.25), 1e-9)
	require.InDelta(t, 3.0, b.quantile(0.75), 1e-9)
	require.Zero(t, buckets{}.quantile(0.5))
}

func TestSample(t *testing.T) {
	text := []byte("# HELP process_cpu_seconds_total x\nprocess_cpu_seconds_total_more 4\nprocess_cpu_seconds_total 1.25\n")
	v, ok := sample(text, "process_cpu_seconds_total")
	require.True(t, ok)
	require.InDelta(t, 1.25, v, 1e-9)
	_, ok = sample(text, "process_resident_memory_bytes")
	require.False(t, ok)
}

// TestSentAt takes the time from the data, not from the managed fields that name it before.
func TestSentAt(t *testing.T) {
	at, ok := sentAt([]byte(`{"metadata":{"generation":7,"managedFields":[{"f:sent":{}}]},"data":{"sent":"123","value":"v9"}}`))
	require.True(t, ok)
	require.EqualValues(t, 123, at.UnixNano())
	_, ok = sentAt([]byte(`{}`))
	require.False(t, ok)
}

// TestLaunch starts a program, and tells of one that does not become ready.
func TestLaunch(t *testing.T) {
	dir := t.TempDir()
	p, err := Launch(context.Background(), dir, "sh", "-c", `echo " 0.1s ready: there"; exec sleep 60`)
	require.NoError(t, err)
	require.Positive(t, p.Ready)
	require.NoError(t, p.Stop())
	_, err = Launch(context.Background(), dir, "sh", "-c", "exit 3")
	require.ErrorContains(t, err, "exit status 3")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = Launch(ctx, dir, "sh", "-c", "exec sleep 60")
	require.ErrorIs(t, err, context.Canceled, fmt.Sprint(err))
}
