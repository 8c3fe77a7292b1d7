//go:build linux

package runtime

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestRecords(t *testing.T) {
	b := book[sandboxRecord]{t.TempDir()}
	r := sandboxRecord{ID: "a", Phase: made, CreatedAt: time.Unix(1, 2).UTC(), Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	r.Config.v = &runtimeapi.PodSandboxConfig{Hostname: "h", Annotations: map[string]string{"k": "\x00é"}}
	if err := b.write("a", &r); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"torn.json": `{"ID":"x`, "b.json.tmp": `{}`, "other": ``} {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, damaged, err := b.read()
	if err != nil || len(all) != 1 || len(damaged) != 1 || damaged[0] != "torn" {
		t.Fatalf("%v: %v, damaged %v", err, all, damaged)
	}
	got := all["a"]
	if !proto.Equal(got.Config.v, r.Config.v) || !got.CreatedAt.Equal(r.CreatedAt) || got.Addresses[0] != r.Addresses[0] || got.Phase != made {
		t.Errorf("%v came back as %v", r, got)
	}
	if _, err := os.Stat(filepath.Join(b.dir, "b.json.tmp")); err == nil {
		t.Error("what was not finished is there")
	}
	var p page
	if err := b.drop(&p, "a"); err != nil {
		t.Fatal(err)
	}
	if err := b.save(&p, "a", func() sandboxRecord { return r }); err != nil {
		t.Fatal(err)
	}
	if all, _, _ = b.read(); len(all) != 0 {
		t.Error("a record that was dropped was written again")
	}
}

func FuzzRecords(f *testing.F) {
	r := containerRecord{ID: "a", Phase: made}
	r.Config.v = &runtimeapi.ContainerConfig{Args: []string{"x"}, Linux: &runtimeapi.LinuxContainerConfig{}}
	data, err := json.Marshal(r)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"Config":null,"User":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var r containerRecord
		if json.Unmarshal(data, &r) != nil {
			return
		}
		again, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		var s containerRecord
		if err := json.Unmarshal(again, &s); err != nil {
			t.Errorf("%v: %s", err, again)
		}
	})
}

func TestMerge(t *testing.T) {
	old := &runtimeapi.LinuxContainerResources{
		CpuShares: 10, MemoryLimitInBytes: 100, MemorySwapLimitInBytes: 200, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 1}},
		Unified: map[string]string{"a": "1", "b": "2"},
	}
	got := merge(old, &runtimeapi.LinuxContainerResources{
		CpuQuota: 5, MemoryLimitInBytes: 300, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "1GB", Limit: 2}}, Unified: map[string]string{"b": "3"},
	})
	want := &runtimeapi.LinuxContainerResources{
		CpuShares: 10, CpuQuota: 5, MemoryLimitInBytes: 300, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "1GB", Limit: 2}},
		Unified: map[string]string{"a": "1", "b": "3"},
	}
	if !proto.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if !proto.Equal(merge(nil, nil), &runtimeapi.LinuxContainerResources{}) || !proto.Equal(merge(old, nil), old) {
		t.Error("nothing changes something")
	}
}

func TestSampler(t *testing.T) {
	var s sampler
	start := time.Unix(100, 0)
	for _, c := range []struct {
		after time.Duration
		value uint64
		rate  uint64
		known bool
	}{
		{0, 1000, 0, false},
		{10 * time.Millisecond, 2000, 0, false}, // too short
		{time.Second, 3000, 2000, true},
		{1010 * time.Millisecond, 9000, 2000, true},
		{2 * time.Second, 4000, 1000, true},
		{3 * time.Second, 10, 1000, false}, // it began anew
		{4 * time.Second, 110, 100, true},
	} {
		if rate, known := s.rateOf(start.Add(c.after), c.value); known != c.known || known && rate != c.rate {
			t.Errorf("after %v: %d, %v, want %d, %v", c.after, rate, known, c.rate, c.known)
		}
	}
}

func TestCgroups(t *testing.T) {
	fs := &machine{cfg: Config{CgroupDriver: Cgroupfs, CgroupParent: "/keelson"}}
	sd := &machine{cfg: Config{CgroupDriver: Systemd, CgroupParent: "/keelson"}}
	const id = "0123456789abcdef0123456789abcdef"
	for what, c := range map[string]struct{ got, want string }{
		"own":                 {fs.ownCgroup(id), "/keelson/" + id},
		"own, systemd":        {sd.ownCgroup(id), "keelson-" + id + ".slice"},
		"where, systemd":      {slicePath(sd.ownCgroup(id)), "keelson.slice/keelson-" + id + ".slice"},
		"parent":              {fs.ownCgroups(), "/keelson"},
		"parent, systemd":     {sd.ownCgroups(), "keelson.slice"},
		"container":           {fs.containerCgroup("/kubepods/pod1", "c"), "/kubepods/pod1/c"},
		"container, relative": {fs.containerCgroup("kubepods/pod1", "c"), "/kubepods/pod1/c"},
		"container, systemd":  {sd.containerCgroup("/kubepods.slice/kubepods-pod1.slice", "c"), "kubepods-pod1.slice:keelson:c"},
		"ID":                  {idIn("keelson-" + id + ".slice"), id},
		"ID, cgroupfs":        {idIn(id), id},
		"no ID":               {idIn("shims"), ""},
		"no ID either":        {idIn(id[2:]), ""},
	} {
		if c.got != c.want {
			t.Errorf("%s: %q, want %q", what, c.got, c.want)
		}
	}
}
