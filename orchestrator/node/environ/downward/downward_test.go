package downward

import (
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func pod() *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "web-0", Namespace: "shop", UID: "u-1",
			Labels:      map[string]string{"app": "web", "tier": "front \"end\""},
			Annotations: map[string]string{"example.com/note": "two\nlines"},
		},
		Spec: corev1.PodSpec{
			NodeName: "n1", ServiceAccountName: "robot",
			Containers: []corev1.Container{{Name: "main", Resources: corev1.ResourceRequirements{
				Requests: list("cpu", "250m", "memory", "33Mi", "ephemeral-storage", "2Gi", "hugepages-2Mi", "4Mi"),
				Limits:   list("cpu", "1500m"),
			}}, {Name: "other"}},
			InitContainers: []corev1.Container{{Name: "init", Resources: corev1.ResourceRequirements{Limits: list("memory", "1Gi")}}},
		},
	}
}

func list(pairs ...string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		l[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return l
}

func TestFields(t *testing.T) {
	a := Addresses{Pod: []string{"10.0.0.7", "fd00::7"}, Host: []string{"192.0.2.1", "2001:db8::1"}}
	for path, want := range map[string]string{
		"metadata.name":                            "web-0",
		"metadata.namespace":                       "shop",
		"metadata.uid":                             "u-1",
		"metadata.labels['app']":                   "web",
		"metadata.labels['none']":                  "",
		"metadata.annotations['example.com/note']": "two\nlines",
		"metadata.labels":                          "app=\"web\"\ntier=\"front \\\"end\\\"\"",
		"metadata.annotations":                     `example.com/note="two\nlines"`,
		"spec.nodeName":                            "n1",
		"spec.serviceAccountName":                  "robot",
		"status.hostIP":                            "192.0.2.1",
		"status.hostIPs":                           "192.0.2.1,2001:db8::1",
		"status.podIP":                             "10.0.0.7",
		"status.podIPs":                            "10.0.0.7,fd00::7",
	} {
		if got, err := Field(pod(), path, a); err != nil || got != want {
			t.Errorf("%s: got %q, %v, want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"spec.containers", "metadata.name['x']", "", "['x']"} {
		if got, err := Field(pod(), path, a); err == nil {
			t.Errorf("%s: got %q, want an error", path, got)
		}
	}
	if _, err := Field(pod(), "status.hostIP", Addresses{}); err == nil {
		t.Error("a node without an address: want an error")
	}
}

func TestResources(t *testing.T) {
	allocatable := list("cpu", "4", "memory", "8Gi", "ephemeral-storage", "100Gi", "hugepages-2Mi", "1Gi")
	for _, c := range []struct{ container, resource, divisor, want string }{
		{"", "requests.cpu", "", "1"},
		{"", "requests.cpu", "1m", "250"},
		{"", "limits.cpu", "", "2"},
		{"", "limits.cpu", "1m", "1500"},
		{"", "requests.memory", "", "34603008"},
		{"", "requests.memory", "1Mi", "33"},
		{"", "requests.memory", "1Gi", "1"},
		{"", "limits.memory", "1Mi", "8192"}, // the node's
		{"", "limits.ephemeral-storage", "1Gi", "100"},
		{"", "requests.hugepages-2Mi", "1Mi", "4"},
		{"", "limits.hugepages-2Mi", "", "0"}, // never the node's
		{"other", "limits.cpu", "", "4"},
		{"other", "requests.cpu", "", "0"},
		{"init", "limits.memory", "1Mi", "1024"},
	} {
		sel := &corev1.ResourceFieldSelector{ContainerName: c.container, Resource: c.resource}
		if c.divisor != "" {
			sel.Divisor = resource.MustParse(c.divisor)
		}
		p := pod()
		if got, err := Resource(p, &p.Spec.Containers[0], sel, allocatable); err != nil || got != c.want {
			t.Errorf("%+v: got %q, %v", c, got, err)
		}
	}
	p := pod()
	p.Spec.Resources = &corev1.ResourceRequirements{Limits: list("memory", "64Mi")}
	if got, _ := Resource(p, &p.Spec.Containers[0], &corev1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}, allocatable); got != "64" {
		t.Errorf("with a limit of the pod: got %s", got)
	}
	for _, sel := range []corev1.ResourceFieldSelector{{Resource: "limits.pods"}, {Resource: "limits"}, {Resource: "x.cpu"}, {Resource: "limits.cpu", ContainerName: "gone"}} {
		if got, err := Resource(p, &p.Spec.Containers[0], &sel, allocatable); err == nil {
			t.Errorf("%+v: got %q, want an error", sel, got)
		}
	}
	if _, err := Resource(p, nil, &corev1.ResourceFieldSelector{Resource: "limits.cpu"}, nil); err == nil {
		t.Error("no container: want an error")
	}
}

func TestAddresses(t *testing.T) {
	node := &corev1.Node{Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeHostName, Address: "n1"}, {Type: corev1.NodeExternalIP, Address: "198.51.100.1"},
		{Type: corev1.NodeInternalIP, Address: "2001:db8::1"}, {Type: corev1.NodeInternalIP, Address: "2001:db8::2"},
		{Type: corev1.NodeInternalIP, Address: "192.0.2.1"},
	}}}
	host := []string{"2001:db8::1", "192.0.2.1"}
	got := AddressesOf(pod(), []string{"10.0.0.7", "fd00::7"}, node)
	if want := (Addresses{Pod: []string{"fd00::7", "10.0.0.7"}, Host: host}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	onHost := pod()
	onHost.Spec.HostNetwork = true
	if got := AddressesOf(onHost, nil, node); !reflect.DeepEqual(got, Addresses{Pod: host, Host: host}) {
		t.Errorf("on the node's network: got %+v", got)
	}
	if got := AddressesOf(pod(), nil, nil); got.Pod != nil || got.Host != nil {
		t.Errorf("nothing known: got %+v", got)
	}
}
