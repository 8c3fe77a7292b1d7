// Package rights decides whether a user may do something.
//
// An Authorizer is asked with Attributes and answers with a Decision: Allow, Deny, or NoOpinion, which leaves it to the next
// one of a Chain. There are three here:
//
//   - Privileged allows members of system:masters everything.
//   - Policy is RBAC: the rules of roles, given to users, groups and service accounts by bindings.
//   - Nodes lets a kubelet have what belongs to its node and pods, which it finds by a graph from objects to nodes.
//
// # RBAC
//
// Rules are purely additive: nothing ever takes away a right, and the order of rules and bindings is of no importance to the
// decision. A Policy is fed with objects (Set, Remove) by whoever watches them, and compiles them:
//
//	scope (the cluster, or one namespace)  user or group name -> grants
//	grant (a binding's role reference)     -> cell
//	cell  (one per role that is there or referred to) -> compiled rules, nil while there is no such role
//
// Scopes and compiled rules never change; what points to them is swapped. So a change of a role is one store into its cell,
// whatever the number of bindings; a change of a binding copies the scope it is in; and a decision takes no lock. It looks up
// the user and the groups in two scopes, and passes rules by two bit sets (verbs, and a hash of resources) before it
// compares strings. Nothing is allocated unless a role is missing.
//
// Aggregated cluster roles are not computed by a Policy: as in Kubernetes their rules are stored in the object, where a controller
// keeps them.
//
// Nobody may give rights that he has not: Policy.ConfirmNoEscalation is for those who write roles and bindings.
//
// # Nodes
//
// Graph has pods, volumes and the like as they are watched, and answers whether a path leads from an object to a node. The
// functions of restrict.go say what a kubelet may write, beyond verbs and resources; they are pure.
//
// # Concurrency
//
// All methods may be called from any goroutine. A change is seen by decisions that start after it returned; a decision that
// runs meanwhile sees it or not, for each role and each scope. Objects that were passed in are not changed, and the caller
// must not change them either.
package rights
