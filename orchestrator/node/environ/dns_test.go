package environ

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/ptr"
)

func TestDNS(t *testing.T) {
	cluster := &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}, Options: []string{"ndots:5"},
		Searches: []string{"shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example", "lab.example"}}
	host := &runtimeapi.DNSConfig{Servers: []string{"203.0.113.5", "203.0.113.6"}, Searches: []string{"corp.example", "lab.example"}, Options: []string{"ndots:2", "rotate"}}
	for _, c := range []struct {
		name        string
		policy      corev1.DNSPolicy
		hostNetwork bool
		more        *corev1.PodDNSConfig
		want        *runtimeapi.DNSConfig
	}{
		{name: "cluster first", policy: corev1.DNSClusterFirst, want: cluster},
		{name: "cluster first on the node's network is the node's", policy: corev1.DNSClusterFirst, hostNetwork: true, want: host},
		{name: "cluster first with host net", policy: corev1.DNSClusterFirstWithHostNet, hostNetwork: true, want: cluster},
		{name: "default", policy: corev1.DNSDefault, want: host},
		{name: "none", policy: corev1.DNSNone, more: &corev1.PodDNSConfig{Nameservers: []string{"1.2.3.4"}, Searches: []string{"a.b"}, Options: []corev1.PodDNSConfigOption{{Name: "edns0"}, {Name: "ndots", Value: ptr.To("2")}}},
			want: &runtimeapi.DNSConfig{Servers: []string{"1.2.3.4"}, Searches: []string{"a.b"}, Options: []string{"edns0", "ndots:2"}}},
		{name: "merged", policy: corev1.DNSDefault, more: &corev1.PodDNSConfig{Nameservers: []string{"203.0.113.5", "1.1.1.1"}, Searches: []string{"lab.example", "x.y"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: ptr.To("9")}, {Name: "single"}}},
			want: &runtimeapi.DNSConfig{Servers: []string{"203.0.113.5", "203.0.113.6", "1.1.1.1"}, Searches: []string{"corp.example", "lab.example", "x.y"}, Options: []string{"ndots:9", "rotate", "single"}}},
	} {
		f := newFixture(t)
		p := pod()
		p.Spec.DNSPolicy, p.Spec.HostNetwork, p.Spec.DNSConfig = c.policy, c.hostNetwork, c.more
		got, err := f.DNS(p)
		if err != nil || got.String() != c.want.String() {
			t.Errorf("%s: got %v, %v, want %v", c.name, got, err, c.want)
		}
		if e := f.recorded(); len(e) > 0 {
			t.Errorf("%s: events %q", c.name, e)
		}
	}
}

func TestDNSLimits(t *testing.T) {
	f := newFixture(t)
	p := pod()
	p.Spec.DNSPolicy = corev1.DNSNone
	p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"}, Searches: []string{strings.Repeat("a.", 130) + "toolong"}}
	for i := range 40 {
		p.Spec.DNSConfig.Searches = append(p.Spec.DNSConfig.Searches, strings.Repeat(string(rune('a'+i%26)), 90)+string(rune('0'+i%10))+".example")
	}
	got, err := f.DNS(p)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Servers) != 3 || len(got.Searches) != 20 || len(strings.Join(got.Searches, " ")) > maxSearchLength {
		t.Errorf("got %d servers and %d searches", len(got.Servers), len(got.Searches))
	}
	events := f.recorded()
	if len(events) != 2 || !strings.Contains(events[0], "Warning DNSConfigForming Nameserver limits were exceeded") || !strings.Contains(events[0], "line is: 1.1.1.1 2.2.2.2 3.3.3.3") || !strings.Contains(events[1], "Search Line limits were exceeded") {
		t.Errorf("got %q", events)
	}
}

func TestDNSWithoutServers(t *testing.T) {
	f := newFixture(t)
	f.cfg.ClusterDNS = nil
	got, err := f.DNS(pod())
	if err != nil || !reflect.DeepEqual(got.Servers, []string{"203.0.113.5", "203.0.113.6"}) {
		t.Errorf("got %v, %v", got, err)
	}
	if e := f.recorded(); len(e) != 1 || !strings.Contains(e[0], "MissingClusterDNS") {
		t.Errorf("got %q", e)
	}
	f.cfg.ResolvConf = ""
	if got, err := f.DNS(pod()); err != nil || !reflect.DeepEqual(got.Servers, []string{"127.0.0.1"}) || !reflect.DeepEqual(got.Searches, []string{"."}) {
		t.Errorf("without a resolv.conf: got %v, %v", got, err)
	}
	f.cfg.ResolvConf = filepath.Join(f.dir, "gone")
	if _, err := f.DNS(pod()); err == nil {
		t.Error("a resolv.conf that is not there: want an error")
	}
}

func TestHosts(t *testing.T) {
	f := newFixture(t)
	p := pod()
	p.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.9", Hostnames: []string{"db", "db.example"}}}
	path, err := f.Hosts(p, []string{"10.0.0.7", "fd00::7"})
	if err != nil {
		t.Fatal(err)
	}
	want := "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n" +
		"10.0.0.7\tweb-0\nfd00::7\tweb-0\n\n# Entries added by HostAliases.\n192.0.2.9\tdb\tdb.example\n"
	before := check(t, path, want)
	if path != filepath.Join(f.dir, "pods", "u-1", "etc-hosts") {
		t.Errorf("got %s", path)
	}
	if path, err = f.Hosts(p, []string{"10.0.0.7", "fd00::7"}); err != nil || !os.SameFile(before, check(t, path, want)) {
		t.Errorf("a file that was right was written again (%v)", err)
	}
	p.Spec.Subdomain, p.Spec.Hostname, p.Spec.HostAliases = "db", "first", nil
	if path, err = f.Hosts(p, []string{"10.0.0.7"}); err != nil {
		t.Fatal(err)
	}
	if os.SameFile(before, check(t, path, hostsHeader+localhosts+"10.0.0.7\tfirst.db.shop.svc.cluster.local\tfirst\n")) {
		t.Error("the file was changed under its readers")
	}
	p.Spec.HostNetwork = true
	if path, err = f.Hosts(p, []string{"192.0.2.1"}); err != nil {
		t.Fatal(err)
	}
	check(t, path, "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost node-itself\n")
	left, _ := os.ReadDir(filepath.Dir(path))
	if len(left) != 1 {
		t.Errorf("left behind: %v", left)
	}
}

func check(t *testing.T, path, want string) os.FileInfo {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil || string(b) != want {
		t.Errorf("got %q, %v, want %q", b, err, want)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o644 {
		t.Errorf("got %v, %v", info, err)
	}
	return info
}

func TestHostname(t *testing.T) {
	f := newFixture(t)
	long := strings.Repeat("a", 62) + "-bcd"
	for _, c := range []struct {
		spec       corev1.PodSpec
		name       string
		host, fqdn string
		err        string
	}{
		{name: "web-0", host: "web-0"},
		{name: long, host: strings.Repeat("a", 62)},
		{name: "web-0", spec: corev1.PodSpec{Hostname: "x"}, host: "x"},
		{name: "web-0", spec: corev1.PodSpec{Hostname: "x", Subdomain: "s"}, host: "x", fqdn: "x.s.shop.svc.cluster.local"},
		{name: "web-0", spec: corev1.PodSpec{Hostname: "x.y"}, err: `pod Hostname "x.y" is not a valid DNS label`},
		{name: "web-0", spec: corev1.PodSpec{Subdomain: "x.y"}, err: `pod Subdomain "x.y" is not a valid DNS label`},
		{name: "web-0", spec: corev1.PodSpec{Subdomain: "s", HostnameOverride: ptr.To("my.own.name")}, host: "my.own.name"},
		{name: "web-0", spec: corev1.PodSpec{HostnameOverride: ptr.To("No_")}, err: "is not a valid DNS subdomain"},
		{name: "web-0", spec: corev1.PodSpec{HostNetwork: true}, host: ""},
		{name: strings.Repeat("n", 40), spec: corev1.PodSpec{Subdomain: "s", SetHostnameAsFQDN: ptr.To(true)}, err: "is too long (64 characters is the max, 65 characters requested)"},
	} {
		p := pod()
		p.Name, p.Spec = c.name, c.spec
		got, err := f.SandboxHostname(p)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%+v: got %q, %v", c, got, err)
			}
			continue
		}
		if err != nil || got != c.host {
			t.Errorf("%+v: got %q, %v", c, got, err)
		}
		if c.fqdn != "" {
			p.Spec.SetHostnameAsFQDN = ptr.To(true)
			if got, err := f.SandboxHostname(p); err != nil || got != c.fqdn {
				t.Errorf("%+v: got %q, %v", c, got, err)
			}
		}
	}
}
