package testkit

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"github.com/vishvananda/netlink"
)

// settle is how long what is being torn down may take to be gone.
const settle = 5 * time.Second

// NoLeaks fails a test that ends with mounts, network links or cgroups on the machine that were not there when NoLeaks was
// called. It is called before anything else registers its cleanup. Only what contains mark in its name counts: other
// programs may come and go.
func NoLeaks(t testing.TB, mark string) {
	t.Helper()
	before := held(t, mark)
	t.Cleanup(func() {
		var left []string
		for deadline := time.Now().Add(settle); ; time.Sleep(50 * time.Millisecond) {
			left = slices.DeleteFunc(held(t, mark), func(s string) bool { return slices.Contains(before, s) })
			if len(left) == 0 || time.Now().After(deadline) {
				break
			}
		}
		for _, what := range left {
			t.Errorf("left behind: %s", what)
		}
	})
}

// held lists what the machine holds of a test.
func held(t testing.TB, mark string) (all []string) {
	t.Helper()
	mounts, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) { return !strings.Contains(i.Mountpoint, mark), false })
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		all = append(all, "mount "+m.Mountpoint)
	}
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if strings.Contains(l.Attrs().Name, mark) {
			all = append(all, "link "+l.Attrs().Name)
		}
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(d.Name(), mark) {
			all = append(all, "cgroup "+path)
		}
		return nil
	})
	if _, err := os.Stat("/sys/fs/cgroup"); err != nil {
		t.Fatal(err)
	}
	return all
}
