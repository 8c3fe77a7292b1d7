package main

import (
	"testing"
)

// described are objects of the kinds that describe has words of its own for, and what it says of each, in order.
var described = []struct {
	what  string
	words []string
}{
	{"deployment web", []string{"Name: web", "Labels: app=web", "Annotations: deployment.kubernetes.io/revision: 1", "Selector: app=web",
		"Replicas: 3 desired | 3 updated | 3 total | 3 available | 0 unavailable", "StrategyType: RollingUpdate", "RollingUpdateStrategy: 25% max unavailable, 25% max surge",
		"Image: nginx:1.27", "Port: 80/TCP (http)", "Limits:\n memory: 64Mi", "Requests:\n cpu: 10m", "Readiness: http-get http://:http/ delay=0s timeout=1s period=10s successThreshold=1 failureThreshold=3",
		"Environment Variables from:\n conf ConfigMap Optional: false", "PASS: <set to the key 'word' in secret 'pass'> Optional: false", "/c from c (rw)",
		"Available True MinimumReplicasAvailable", "Progressing True NewReplicaSetAvailable", "OldReplicaSets: <none>", "NewReplicaSet: web-", "(3/3 replicas created)",
		"Events:", "Normal ScalingReplicaSet", "Scaled up replica set web-"}},
	{"replicaset -l app=web", []string{"Name: web-", "Selector: app=web,pod-template-hash=", "Controlled By: Deployment/web", "Replicas: 3 current / 3 desired",
		"Pods Status: 3 Running / 0 Waiting / 0 Succeeded / 0 Failed", "Normal SuccessfulCreate"}},
	{"pod -l app=web", []string{"Name: web-", "Service Account: default", "Node: hollow-", "Controlled By: ReplicaSet/web-", "Container ID: hollow://", "State: Running", "Ready: True",
		"Restart Count: 0", "Conditions:", "Ready True", "ContainersReady True", "kube-api-access-", "TokenExpirationSeconds: 3607", "QoS Class: Burstable",
		"Tolerations: node.kubernetes.io/not-ready:NoExecute op=Exists for 300s\n node.kubernetes.io/unreachable:NoExecute op=Exists for 300s"}},
	{"service web", []string{"Selector: app=web", "Type: ClusterIP", "IP Family Policy: SingleStack", "IP Families: IPv4", "IPs: 10.96.", "Port: <unset> 80/TCP", "TargetPort: http/TCP",
		"Endpoints: 10.", ":80,10.", "Session Affinity: None", "Internal Traffic Policy: Cluster"}},
	{"endpoints web", []string{"Labels: app=web\n endpoints.kubernetes.io/managed-by=endpoint-controller", "Subsets:\n Addresses: 10.", "NotReadyAddresses: <none>", "Name Port Protocol", "<unset> 80 TCP"}},
	{"endpointslice -l kubernetes.io/service-name=web", []string{"AddressType: IPv4", "<unset> 80 TCP", "Addresses: 10.", "Ready: true", "TargetRef: Pod/web-", "NodeName: hollow-"}},
	{"configmap conf", []string{"Data\n====\na:\n----\nb", "BinaryData\n===="}},
	{"secret pass", []string{"Type: Opaque", "Data\n====\nword: 6 bytes"}},
	{"serviceaccount bob", []string{"Name: bob", "Image pull secrets: reg", "Events: <none>"}},
	{"role r", []string{"PolicyRule:\n Resources Non-Resource URLs Resource Names Verbs", "pods [] [p] [get list]"}},
	{"rolebinding rb", []string{"Role:\n Kind: Role\n Name: r", "ServiceAccount bob"}},
	{"clusterrole view", []string{"Labels: kubernetes.io/bootstrapping=rbac-defaults", "PolicyRule:", "configmaps [] [] [get list watch]"}},
	{"clusterrolebinding cluster-admin", []string{"Kind: ClusterRole\n Name: cluster-admin", "Group system:masters"}},
	{"quota q", []string{"Name: q", "Resource Used Hard", "configmaps 2 9", "pods 5 20"}},
	{"limits l", []string{"Type Resource Min Max Default Request Default Limit Max Limit/Request Ratio", "Container cpu - - 1m 4 -"}},
	{"pdb pdb", []string{"Min available: 1", "Selector: app=none", "Status:"}},
	{"ingress ing", []string{"Ingress Class: x", "Default backend: <default>", "TLS:\n tls terminates foo.com", "foo.com \n /bar svc:8080 (<error: services \"svc\" not found>)"}},
	{"networkpolicy np", []string{"PodSelector: app=web", "Allowing ingress traffic:\n To Port: 80/TCP\n From:\n PodSelector: app=db", "Not affecting egress traffic", "Policy Types: Ingress"}},
	{"job j", []string{"Selector: batch.kubernetes.io/controller-uid=", "Parallelism: 1", "Completions: 1", "Completion Mode: NonIndexed", "Suspend: true", "Backoff Limit: 6", "Command:\n echo\n hi"}},
	{"cronjob cj", []string{"Schedule: 0 0 1 1 *", "Concurrency Policy: Allow", "Suspend: False", "Successful Job History Limit: 3", "Failed Job History Limit: 1", "Last Schedule Time: <unset>", "Active Jobs: <none>"}},
	{"rc rc", []string{"Selector: app=rc", "Replicas: 2 current / 2 desired", "Image: agnhost:2", "Normal SuccessfulCreate"}},
	{"statefulset ss", []string{"Replicas: 0 desired | 0 total", "Update Strategy: RollingUpdate\n Partition: 0", "Volume Claims:\n Name: data", "Capacity: 1Gi"}},
	{"daemonset ds", []string{"Selector: app=ds", "Node-Selector: nope=nope", "Desired Number of Nodes Scheduled: 0"}},
	{"pvc claim", []string{"Status: Pending", "Access Modes:", "VolumeMode: Filesystem", "Used By: <none>"}},
	{"node hollow-0", []string{"Roles: <none>", "kubernetes.io/hostname=hollow-0", "Unschedulable: false", "Lease:\n HolderIdentity: hollow-0", "Ready True", "KubeletReady",
		"InternalIP: 10.0.0.1\n Hostname: hollow-0", "Capacity:\n cpu: 32", "Allocatable:", "pods: 110", "PodCIDR: 10.244.", "Non-terminated Pods:", "Allocated resources:", "Resource Requests Limits"}},
	{"namespace kube-system", []string{"Name: kube-system", "kubernetes.io/metadata.name=kube-system", "Status: Active", "No resource quota.", "No LimitRange resource."}},
	{"priorityclass system-node-critical", []string{"Value: 2000001000", "GlobalDefault: false", "PreemptionPolicy: PreemptLowerPriority", "Description: Used for system critical pods"}},
	{"lease -n kube-node-lease hollow-0", []string{"API Version: coordination.k8s.io/v1", "Kind: Lease", "Holder Identity: hollow-0", "Lease Duration Seconds: 40"}},
	{"servicecidr kubernetes", []string{"CIDRs: 10.96.0.0/16"}},
	{"ipaddress 10.96.0.1", []string{"Parent Reference:\n Group: \n Resource: services\n Namespace: default\n Name: kubernetes"}},
	{"flowschema global-default", []string{"Kind: FlowSchema", "Distinguisher Method:\n Type: ByUser", "Priority Level Configuration:\n Name: global-default"}},
}

const toDescribe = `
apiVersion: v1
kind: ServiceAccount
metadata: {name: bob}
imagePullSecrets: [{name: reg}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: r}
rules: [{apiGroups: [""], resources: [pods], resourceNames: [p], verbs: [get, list]}]
---
apiVersion: v1
kind: ResourceQuota
metadata: {name: q}
spec: {hard: {pods: "20", configmaps: "9"}}
---
apiVersion: v1
kind: LimitRange
metadata: {name: l}
spec: {limits: [{type: Container, default: {cpu: 4}, defaultRequest: {cpu: 1m}}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: np}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: db}}}], ports: [{port: 80}]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: j}
spec: {suspend: true, template: {spec: {restartPolicy: Never, containers: [{name: x, image: x, command: [echo, hi]}]}}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: ss}
spec:
  replicas: 0
  serviceName: ss
  selector: {matchLabels: {app: ss}}
  template: {metadata: {labels: {app: ss}}, spec: {containers: [{name: x, image: x}]}}
  volumeClaimTemplates: [{metadata: {name: data}, spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: ds}
spec:
  selector: {matchLabels: {app: ds}}
  template: {metadata: {labels: {app: ds}}, spec: {nodeSelector: {nope: nope}, containers: [{name: x, image: x}]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: claim}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`

func TestDescribe(t *testing.T) {
	t.Parallel()
	k := newKube(t)
	k.web()
	k.okInput(toDescribe, "create -f -")
	k.okInput(`{"apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "rc"}, "spec": {"replicas": 2, "selector": {"app": "rc"},
"template": {"metadata": {"labels": {"app": "rc"}}, "spec": {"containers": [{"name": "x", "image": "agnhost:2"}]}}}}`, "create -f -")
	k.ok("create rolebinding rb --role r --serviceaccount " + k.ns + ":bob")
	k.ok("create poddisruptionbudget pdb --selector app=none --min-available=1")
	k.ok("create ingress ing --rule=foo.com/bar=svc:8080,tls=tls --class=x")
	k.ok("create cronjob cj --image=x", "--schedule=0 0 1 1 *")
	k.ok("wait pod -l app=rc --for=condition=Ready --timeout=60s")
	k.eventually("2 5", "get quota q -o", "jsonpath={.status.used.configmaps} {.status.used.pods}")
	for _, d := range described {
		t.Run(d.what, func(t *testing.T) {
			each := *k
			each.t = t
			each.holds("describe "+d.what+" --show-events=true", d.words...)
		})
	}
	k.fails(`Error from server (NotFound): pods "nope" not found`, "describe pod nope")
}
