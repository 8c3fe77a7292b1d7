package environ

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"
)

// fixture is an Environ over given objects.
type fixture struct {
	*Environ
	events *record.FakeRecorder
	dir    string
	synced bool
}

func newFixture(t *testing.T, objects ...runtime.Object) *fixture {
	t.Helper()
	f := &fixture{events: record.NewFakeRecorder(100), dir: t.TempDir(), synced: true}
	services := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	var others []runtime.Object
	for _, o := range objects {
		if s, ok := o.(*corev1.Service); ok {
			if err := services.Add(s); err != nil {
				t.Fatal(err)
			}
			continue
		}
		others = append(others, o)
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{
		Addresses:   []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}},
		Allocatable: corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("8Gi")},
	}}
	resolv := filepath.Join(f.dir, "resolv.conf")
	write(t, resolv, "# node\nnameserver 203.0.113.5\nnameserver 203.0.113.6\nsearch old.example\nsearch corp.example. lab.example\noptions ndots:2 rotate\n")
	hosts := filepath.Join(f.dir, "hosts")
	write(t, hosts, "127.0.0.1 localhost node-itself\n")
	var err error
	f.Environ, err = New(Config{
		Client: fake.NewClientset(others...), Services: corelisters.NewServiceLister(services), ServicesSynced: func() bool { return f.synced },
		Node: func() *corev1.Node { return node }, ClusterDNS: []netip.Addr{netip.MustParseAddr("10.96.0.10")}, ClusterDomain: "cluster.local",
		ResolvConf: resolv, HostsFile: hosts, Dir: filepath.Join(f.dir, "pods"), Events: f.events,
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func (f *fixture) recorded() (all []string) {
	for {
		select {
		case e := <-f.events.Events:
			all = append(all, e)
		default:
			return all
		}
	}
}

func pod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web-0", Namespace: "shop", UID: "u-1", Labels: map[string]string{"app": "web"}},
		Spec:       corev1.PodSpec{NodeName: "n1", DNSPolicy: corev1.DNSClusterFirst, Containers: []corev1.Container{{Name: "main"}}},
	}
}

func service(namespace, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
}

func objects() []runtime.Object {
	meta := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: "shop", Name: name} }
	return []runtime.Object{
		&corev1.ConfigMap{ObjectMeta: meta("settings"), Data: map[string]string{"COLOUR": "red", "with-dash.ed": "ok", "SIZE": "$(COLOUR)"}},
		&corev1.ConfigMap{ObjectMeta: meta("odd"), Data: map[string]string{"a=b": "x", "FINE": "y", "tab\there": "z"}},
		&corev1.Secret{ObjectMeta: meta("login"), Data: map[string][]byte{"PASSWORD": []byte("s3cret"), "COLOUR": []byte("blue")}},
		service("default", "kubernetes", "10.96.0.1", corev1.ServicePort{Name: "https", Port: 443}),
		service("default", "other", "10.96.0.2", corev1.ServicePort{Port: 1}),
		service("shop", "redis-primary", "10.96.0.3", corev1.ServicePort{Name: "main-port", Port: 6379, Protocol: corev1.ProtocolTCP}, corev1.ServicePort{Name: "gossip", Port: 7, Protocol: corev1.ProtocolUDP}),
		service("shop", "1st", "fd00::9", corev1.ServicePort{Port: 80}),
		service("shop", "headless", "None", corev1.ServicePort{Port: 80}),
	}
}

func env(t *testing.T, f *fixture, p *corev1.Pod, ips ...string) map[string]string {
	t.Helper()
	list, err := f.Env(context.Background(), p, &p.Spec.Containers[0], ips)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, e := range list {
		if _, twice := m[e.Name]; twice {
			t.Errorf("%s comes twice", e.Name)
		}
		m[e.Name] = e.Value
	}
	return m
}

func expect(t *testing.T, got map[string]string, want map[string]string) {
	t.Helper()
	for k, v := range want {
		if g, ok := got[k]; !ok || g != v {
			t.Errorf("%s: got %q (set: %t), want %q", k, g, ok, v)
		}
	}
}

func TestServiceVariables(t *testing.T) {
	f := newFixture(t, objects()...)
	p := pod()
	got := env(t, f, p)
	want := map[string]string{
		"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443",
		"KUBERNETES_PORT": "tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP": "tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
		"KUBERNETES_PORT_443_TCP_PORT": "443", "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
		"REDIS_PRIMARY_SERVICE_HOST": "10.96.0.3", "REDIS_PRIMARY_SERVICE_PORT": "6379", "REDIS_PRIMARY_SERVICE_PORT_MAIN_PORT": "6379",
		"REDIS_PRIMARY_SERVICE_PORT_GOSSIP": "7", "REDIS_PRIMARY_PORT": "tcp://10.96.0.3:6379", "REDIS_PRIMARY_PORT_7_UDP": "udp://10.96.0.3:7",
		"REDIS_PRIMARY_PORT_7_UDP_PROTO": "udp", "_1ST_SERVICE_HOST": "fd00::9", "_1ST_PORT": "tcp://[fd00::9]:80",
	}
	expect(t, got, want)
	if len(got) != 8+5+4+4+7 {
		t.Errorf("got %d variables: %v", len(got), got)
	}
	p.Spec.EnableServiceLinks = ptr.To(false)
	if got := env(t, f, p); len(got) != 8 || got["KUBERNETES_SERVICE_HOST"] == "" {
		t.Errorf("without links: got %v", got)
	}
	f.synced = false
	if _, err := f.Env(context.Background(), p, &p.Spec.Containers[0], nil); err == nil || !strings.Contains(err.Error(), "services have not yet been read") {
		t.Errorf("before the services are known: got %v", err)
	}
	p.Annotations = map[string]string{"kubernetes.io/config.source": "file"}
	env(t, f, p) // a static pod does not wait: it may be the API server
}

func TestVariables(t *testing.T) {
	f := newFixture(t, objects()...)
	p := pod()
	field := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	ref := corev1.LocalObjectReference{Name: "settings"}
	gone := corev1.LocalObjectReference{Name: "gone"}
	p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{
		{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref}},
		{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref}},
		{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "login"}}},
		{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: gone, Optional: ptr.To(true)}},
		{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: gone, Optional: ptr.To(true)}},
	}
	p.Spec.Containers[0].Env = []corev1.EnvVar{
		{Name: "EARLY", Value: "$(LATE)"},
		{Name: "LATE", Value: "late"},
		{Name: "URL", Value: "http://$(REDIS_PRIMARY_SERVICE_HOST):$(PORT)/$(LATE)/$$(LATE)"},
		{Name: "SIZE", Value: "own $(SIZE)"},
		{Name: "EMPTY"},
		{Name: "NAME", ValueFrom: field("metadata.name")},
		{Name: "APP", ValueFrom: field("metadata.labels['app']")},
		{Name: "IP", ValueFrom: field("status.podIP")},
		{Name: "IPS", ValueFrom: field("status.podIPs")},
		{Name: "HOST", ValueFrom: field("status.hostIP")},
		{Name: "CPUS", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}},
		{Name: "PASS", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "login"}, Key: "PASSWORD"}}},
		{Name: "KEY", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref, Key: "COLOUR"}}},
		{Name: "NOKEY", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref, Key: "NO", Optional: ptr.To(true)}}},
		{Name: "NOMAP", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: gone, Key: "NO", Optional: ptr.To(true)}}},
		{Name: "KUBERNETES_SERVICE_HOST", Value: "mine"},
	}
	got := env(t, f, p, "10.0.0.7", "fd00::7")
	expect(t, got, map[string]string{
		"EARLY": "$(LATE)", "URL": "http://10.96.0.3:$(PORT)/late/$(LATE)", "SIZE": "own $(COLOUR)", "EMPTY": "", "NAME": "web-0", "APP": "web",
		"IP": "10.0.0.7", "IPS": "10.0.0.7,fd00::7", "HOST": "192.0.2.1", "CPUS": "4", "PASS": "s3cret", "KEY": "red", "COLOUR": "blue",
		"P_COLOUR": "red", "with-dash.ed": "ok", "P_with-dash.ed": "ok", "KUBERNETES_SERVICE_HOST": "mine",
	})
	for _, name := range []string{"NOKEY", "NOMAP"} {
		if v, ok := got[name]; ok {
			t.Errorf("%s is set to %q", name, v)
		}
	}
	list, _ := f.Env(context.Background(), p, &p.Spec.Containers[0], nil)
	if i := slices.IndexFunc(list, func(e corev1.EnvVar) bool { return e.Name == "LATE" }); i == 0 || list[i-1].Name != "EARLY" {
		t.Errorf("the declared order is lost: %v", list)
	}
}

func TestInvalidKeysAreSkipped(t *testing.T) {
	f := newFixture(t, objects()...)
	p := pod()
	p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "odd"}}}}
	if got := env(t, f, p); got["FINE"] != "y" || got["a=b"] != "" {
		t.Errorf("got %v", got)
	}
	want := "Warning InvalidEnvironmentVariableNames Keys [a=b, tab\there] from the EnvFrom configMap shop/odd were skipped since they are considered invalid environment variable names."
	if got := f.recorded(); !slices.Equal(got, []string{want}) {
		t.Errorf("got %q", got)
	}
}

func TestErrorsOfVariables(t *testing.T) {
	f := newFixture(t, objects()...)
	ref := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	cm := func(name, key string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: ref(name), Key: key}}
	}
	secret := func(name, key string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: ref(name), Key: key}}
	}
	for want, c := range map[string]corev1.Container{
		`configmap "x" not found`:                        {Env: []corev1.EnvVar{{Name: "A", ValueFrom: cm("x", "k")}}},
		`secret "x" not found`:                           {Env: []corev1.EnvVar{{Name: "A", ValueFrom: secret("x", "k")}}},
		`configmap "y" not found`:                        {EnvFrom: []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: ref("y")}}}},
		`secret "y" not found`:                           {EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: ref("y")}}}},
		`couldn't find key k in ConfigMap shop/settings`: {Env: []corev1.EnvVar{{Name: "A", ValueFrom: cm("settings", "k")}}},
		`couldn't find key k in Secret shop/login`:       {Env: []corev1.EnvVar{{Name: "A", ValueFrom: secret("login", "k")}}},
		`unsupported fieldPath: spec.x`:                  {Env: []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "spec.x"}}}}},
	} {
		if _, err := f.Env(context.Background(), pod(), &c, nil); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func TestVariablesFromFiles(t *testing.T) {
	f := newFixture(t)
	p := pod()
	dir := filepath.Join(f.dir, "pods", "u-1", "volumes", "kubernetes.io~empty-dir", "shared")
	write(t, filepath.Join(dir, "sub", "app.env"), "# made by init\nADDRESS='10.1.1.1'\nBANNER='two\nlines' # kept\nEMPTY=''\n")
	write(t, filepath.Join(f.dir, "outside.env"), "ADDRESS='stolen'\n")
	if err := os.Symlink("../../../../../outside.env", filepath.Join(dir, "link.env")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(f.dir, "outside.env"), filepath.Join(dir, "abs.env")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "bad.env"), "ADDRESS=bare\n")
	ask := func(path, key string, optional bool) (string, bool, error) {
		c := &corev1.Container{Env: []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{VolumeName: "shared", Path: path, Key: key, Optional: &optional}}}}}
		list, err := f.Env(context.Background(), p, c, nil)
		if err != nil || len(list) == 0 {
			return "", false, err
		}
		return list[0].Value, true, nil
	}
	for _, c := range []struct {
		path, key, want string
		optional, set   bool
		err             string
	}{
		{path: "sub/app.env", key: "ADDRESS", want: "10.1.1.1", set: true},
		{path: "sub/app.env", key: "BANNER", want: "two\nlines", set: true},
		{path: "sub/app.env", key: "EMPTY", set: true},
		{path: "sub/app.env", key: "NO", optional: true},
		{path: "gone.env", key: "NO", optional: true},
		{path: "sub/app.env", key: "NO", err: `environment variable key "NO" not found in file "sub/app.env"`},
		{path: "gone.env", key: "NO", err: "couldn't parse env file"},
		{path: "bad.env", key: "ADDRESS", optional: true, err: "couldn't parse env file"},
		{path: "link.env", key: "ADDRESS", err: "couldn't parse env file"},
		{path: "abs.env", key: "ADDRESS", err: "couldn't parse env file"},
		{path: "sub", key: "ADDRESS", err: "couldn't parse env file"},
	} {
		got, set, err := ask(c.path, c.key, c.optional)
		if fmt.Sprint(err) != c.err && (err != nil || c.err != "") || got != c.want || set != c.set {
			t.Errorf("%+v: got %q, %t, %v", c, got, set, err)
		}
	}
}

func TestParseFile(t *testing.T) {
	for text, want := range map[string]map[string]string{
		"":                                {},
		"\n  # c\n\t\n":                   {},
		"A='1'":                           {"A": "1"},
		"  A='1'\r\n\tB=' x '\n":          {"A": "1", "B": " x "},
		"A='$X ${Y} \\n # \"q\" ='\n":     {"A": "$X ${Y} \\n # \"q\" ="},
		"A='1\n\n# no comment\n2'\nB='3'": {"A": "1\n\n# no comment\n2", "B": "3"},
		"A='1'\nA='2'":                    {"A": "1"},
	} {
		got, err := ParseFile(text)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"A='1'\n='2'":     "at line 2",
		"A='1\n2'\nbad":   "at line 3",
		"A ='1'":          "whitespace before '=' is not allowed",
		"A= '1'":          "enclosed in single quotes",
		"A=\"1\"":         "enclosed in single quotes",
		"A='1":            "not closed",
		"A='1''2'":        "unexpected content after closing quote",
		"A='1'#glued":     "unexpected content after closing quote",
		"A='1'\nB='a'b\n": "at line 2: unexpected content after closing quote",
	} {
		if _, err := ParseFile(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %s", text, err, want)
		}
	}
}

func FuzzParseFile(f *testing.F) {
	f.Add("A='1'\n# c\nB='x\ny' # z\n")
	f.Fuzz(func(t *testing.T, text string) {
		vars, err := ParseFile(text)
		if err != nil {
			return
		}
		var b strings.Builder
		for k, v := range vars {
			fmt.Fprintf(&b, "%s='%s'\n", k, v)
		}
		again, err := ParseFile(b.String())
		if err != nil || fmt.Sprint(again) != fmt.Sprint(vars) {
			t.Errorf("%q read as %q, which reads as %q, %v", text, vars, again, err)
		}
	})
}
