package registration

import (
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// machine reads what a machine is like. root is the root of its files.
type machine struct{ root fs.FS }

// text is a file without the space around its text, "" if it cannot be read.
func (m machine) text(name string) string {
	b, err := fs.ReadFile(m.root, name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// cpus counts the processors that are on.
func (m machine) cpus() int64 {
	n := int64(0)
	for part := range strings.SplitSeq(m.text("sys/devices/system/cpu/online"), ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseInt(first, 10, 32)
		to, err2 := strconv.ParseInt(last, 10, 32)
		if err != nil || err2 != nil || to < from {
			return int64(runtime.NumCPU())
		}
		n += to - from + 1
	}
	return n
}

// memory reads sizes, in bytes.
func (m machine) memory() map[string]int64 {
	out := map[string]int64{}
	for line := range strings.Lines(m.text("proc/meminfo")) {
		name, rest, _ := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if len(fields) == 0 {
			continue
		}
		n, err := strconv.ParseInt(fields[0], 10, 64)
		if err != nil {
			continue
		}
		if len(fields) > 1 && fields[1] == "kB" {
			n <<= 10
		}
		out[name] = n
	}
	return out
}

// hugePages are the memory that is set aside for pages of each size.
func (m machine) hugePages() corev1.ResourceList {
	const dir = "sys/kernel/mm/hugepages"
	sizes, _ := fs.ReadDir(m.root, dir) // without it there are none
	out := corev1.ResourceList{}
	for _, s := range sizes {
		text, ok := strings.CutSuffix(strings.TrimPrefix(s.Name(), "hugepages-"), "kB")
		if !ok {
			continue
		}
		kb, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			continue
		}
		count, _ := strconv.ParseInt(m.text(path.Join(dir, s.Name(), "nr_hugepages")), 10, 64) // unreadable: none
		name := corev1.ResourceHugePagesPrefix + resource.NewQuantity(kb<<10, resource.BinarySI).String()
		out[corev1.ResourceName(name)] = *resource.NewQuantity(count*kb<<10, resource.BinarySI)
	}
	return out
}

// osImage is the name of the system.
func (m machine) osImage() string {
	for _, file := range []string{"etc/os-release", "usr/lib/os-release"} {
		for line := range strings.Lines(m.text(file)) {
			if name, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
				return strings.Trim(name, `"'`)
			}
		}
	}
	return "Linux"
}

// info is what does not change while the machine runs.
func (m machine) info() corev1.NodeSystemInfo {
	i := corev1.NodeSystemInfo{
		MachineID: m.text("etc/machine-id"), SystemUUID: m.text("sys/class/dmi/id/product_uuid"), BootID: m.text("proc/sys/kernel/random/boot_id"),
		KernelVersion: m.text("proc/sys/kernel/osrelease"), OSImage: m.osImage(), OperatingSystem: runtime.GOOS, Architecture: runtime.GOARCH,
	}
	if i.MachineID == "" {
		i.MachineID = m.text("var/lib/dbus/machine-id")
	}
	if i.SystemUUID == "" {
		i.SystemUUID = i.MachineID
	}
	if swap := m.memory()["SwapTotal"]; swap > 0 {
		i.Swap = &corev1.NodeSwapStatus{Capacity: &swap}
	}
	return i
}

// capacity is what the machine has. dir is on the file system of the node's own files.
func (m machine) capacity(dir string, pods int64) corev1.ResourceList {
	out := m.hugePages()
	out[corev1.ResourceCPU] = *resource.NewQuantity(m.cpus(), resource.DecimalSI)
	out[corev1.ResourceMemory] = *resource.NewQuantity(m.memory()["MemTotal"], resource.BinarySI)
	out[corev1.ResourcePods] = *resource.NewQuantity(pods, resource.DecimalSI)
	var s unix.Statfs_t
	if unix.Statfs(dir, &s) == nil {
		out[corev1.ResourceEphemeralStorage] = *resource.NewQuantity(int64(s.Blocks)*int64(s.Bsize), resource.BinarySI)
	}
	return out
}

// allocatable is what is left of a capacity for pods.
func allocatable(capacity, reserved corev1.ResourceList) corev1.ResourceList {
	out := corev1.ResourceList{}
	huge := resource.Quantity{}
	for name, q := range capacity {
		if strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) {
			huge.Add(q)
		}
	}
	for name, q := range capacity {
		left := q.DeepCopy()
		if name == corev1.ResourceMemory {
			left.Sub(huge) // it cannot be used for anything else
		}
		if r, ok := reserved[name]; ok {
			left.Sub(r)
		}
		if left.Sign() < 0 {
			left.Set(0)
		}
		out[name] = left
	}
	return out
}

// reduced is what is left of resources without others.
func reduced(have, less corev1.ResourceList) corev1.ResourceList {
	for name, q := range less {
		left, ok := have[name]
		if !ok {
			continue
		}
		left.Sub(q)
		if left.Sign() < 0 {
			left.Set(0)
		}
		have[name] = left
	}
	return have
}

// MachineAddresses are the addresses by which this machine is reached: at most one of each family, that which it uses towards the
// rest of the world, or the first that is not only its own.
func MachineAddresses() (out []netip.Addr) {
	for _, to := range []string{"udp4/192.0.2.1:9", "udp6/[2001:db8::1]:9"} { // nothing is sent
		network, address, _ := strings.Cut(to, "/")
		if a, ok := toward(network, address); ok {
			out = append(out, a)
			continue
		}
		if a, ok := first(network == "udp4"); ok {
			out = append(out, a)
		}
	}
	return out
}

func toward(network, address string) (netip.Addr, bool) {
	c, err := net.Dial(network, address)
	if err != nil {
		return netip.Addr{}, false
	}
	defer func() { _ = c.Close() }() // nothing was sent
	local, ok := c.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	a := local.AddrPort().Addr().Unmap()
	return a, public(a)
}

// public says whether others may reach an address.
func public(a netip.Addr) bool { return a.IsGlobalUnicast() && a.Zone() == "" }

// first is the first address of a family that is not that of a bridge, which may be the one of the node's pods, or of the
// loopback interface, which has addresses that every node has.
func first(four bool) (netip.Addr, bool) {
	all, _ := net.Interfaces() // without them there are none
	for _, i := range all {
		if _, err := os.Stat(filepath.Join("/sys/class/net", i.Name, "bridge")); err == nil || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		addresses, _ := i.Addrs() // it may be gone
		for _, n := range addresses {
			p, err := netip.ParsePrefix(n.String())
			if err != nil {
				continue
			}
			if a := p.Addr().Unmap(); public(a) && a.Is4() == four {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}
