package flowcontrol

import (
	"net/http"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"github.com/keelson-io/keelson/orchestrator/cluster/conformance"
)

func TestConformance(t *testing.T) {
	conformance.Test(t, conformance.Behaviours{
		"API priority and fairness should support FlowSchema API operations":                 schemaOperations,
		"API priority and fairness should support PriorityLevelConfiguration API operations": levelOperations,
	})
}

// schema sends the requests of a user to a level.
func schema(user, level string) *flowcontrolv1.FlowSchema {
	return &flowcontrolv1.FlowSchema{Spec: flowcontrolv1.FlowSchemaSpec{
		MatchingPrecedence: 1500, PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: level},
		DistinguisherMethod: &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
		Rules: []flowcontrolv1.PolicyRulesWithSubjects{{
			Subjects:         []flowcontrolv1.Subject{{Kind: flowcontrolv1.SubjectKindUser, User: &flowcontrolv1.UserSubject{Name: user}}},
			NonResourceRules: []flowcontrolv1.NonResourcePolicyRule{{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}},
		}},
	}}
}

// matched returns the UIDs of the schema and the level of a user's request.
func matched(t *testing.T, e *conformance.Env, user string) (schema, level types.UID) {
	t.Helper()
	rc := rest.CopyConfig(e.Config)
	rc.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: []string{"system:authenticated"}}
	client, err := rest.HTTPClientFor(rc)
	require.NoError(t, err)
	r, err := http.NewRequestWithContext(e.Ctx, http.MethodGet, e.URL+"/version", nil)
	require.NoError(t, err)
	resp, err := client.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode)
	return types.UID(resp.Header.Get(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID)),
		types.UID(resp.Header.Get(flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID))
}

func schemaOperations(t *testing.T, e *conformance.Env) {
	schemas, user := e.Client.FlowcontrolV1().FlowSchemas(), e.NS+"-user"
	conformance.Operations[*flowcontrolv1.FlowSchema]{
		Resource: flowcontrolv1.SchemeGroupVersion.WithResource("flowschemas"), Kind: "FlowSchema",
		Make: func(i int) *flowcontrolv1.FlowSchema {
			s := schema(user, "global-default")
			s.Spec.MatchingPrecedence += int32(i)
			return s
		},
		With: func(x *flowcontrolv1.FlowSchema) {
			conformance.Eventually(t, e, "the schema takes effect", func() (bool, error) {
				s, _ := matched(t, e, user)
				return s == x.UID, nil
			})
			moved := conformance.Update(t, e, schemas, x.Name, func(x *flowcontrolv1.FlowSchema) { x.Spec.MatchingPrecedence = 9999 })
			require.EqualValues(t, 9999, moved.Spec.MatchingPrecedence)

			has := func(x *flowcontrolv1.FlowSchema, typ flowcontrolv1.FlowSchemaConditionType, reason string) bool {
				return slices.ContainsFunc(x.Status.Conditions, func(c flowcontrolv1.FlowSchemaCondition) bool { return c.Type == typ && c.Reason == reason })
			}
			patch := `{"status":{"conditions":[{"type":"PatchStatus","status":"False","reason":"Patched","message":"by a test","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`
			p, err := schemas.Patch(e.Ctx, x.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
			require.NoError(t, err)
			require.True(t, has(p, "PatchStatus", "Patched"))
			u := conformance.UpdateStatus(t, e, schemas, x.Name, func(x *flowcontrolv1.FlowSchema) {
				x.Status.Conditions = append(x.Status.Conditions, flowcontrolv1.FlowSchemaCondition{Type: "UpdateStatus", Status: "False", Reason: "Updated"})
			})
			require.True(t, has(u, "PatchStatus", "Patched") && has(u, "UpdateStatus", "Updated"))
			// The server keeps its own condition beside those.
			got := conformance.Until(t, e, "the schema does not dangle", func() (*flowcontrolv1.FlowSchema, error) {
				return schemas.Get(e.Ctx, x.Name, metav1.GetOptions{})
			}, func(x *flowcontrolv1.FlowSchema) bool {
				return has(x, flowcontrolv1.FlowSchemaConditionDangling, "Found")
			})
			require.True(t, has(got, "PatchStatus", "Patched") && has(got, "UpdateStatus", "Updated"))
		},
	}.Run(t, e)
	conformance.Eventually(t, e, "the schemas are out of use", func() (bool, error) {
		s, _ := matched(t, e, user)
		def, err := schemas.Get(e.Ctx, "global-default", metav1.GetOptions{})
		return err == nil && s == def.UID, err
	})
}

func levelOperations(t *testing.T, e *conformance.Env) {
	levels, schemas, user := e.Client.FlowcontrolV1().PriorityLevelConfigurations(), e.Client.FlowcontrolV1().FlowSchemas(), e.NS+"-user"
	conformance.Operations[*flowcontrolv1.PriorityLevelConfiguration]{
		Resource: flowcontrolv1.SchemeGroupVersion.WithResource("prioritylevelconfigurations"), Kind: "PriorityLevelConfiguration",
		Make: func(i int) *flowcontrolv1.PriorityLevelConfiguration {
			return &flowcontrolv1.PriorityLevelConfiguration{Spec: flowcontrolv1.PriorityLevelConfigurationSpec{
				Type: flowcontrolv1.PriorityLevelEnablementLimited, Limited: &flowcontrolv1.LimitedPriorityLevelConfiguration{
					NominalConcurrencyShares: ptr.To(int32(2 + i)), LimitResponse: flowcontrolv1.LimitResponse{Type: flowcontrolv1.LimitResponseTypeReject},
				},
			}}
		},
		With: func(x *flowcontrolv1.PriorityLevelConfiguration) {
			s := schema(user, x.Name)
			s.Name = x.Name
			s, err := schemas.Create(e.Ctx, s, metav1.CreateOptions{})
			require.NoError(t, err)
			defer func() { require.NoError(t, schemas.Delete(e.Ctx, s.Name, metav1.DeleteOptions{})) }()
			conformance.Eventually(t, e, "the level takes effect", func() (bool, error) {
				schema, level := matched(t, e, user)
				return schema == s.UID && level == x.UID, nil
			})
			wider := conformance.Update(t, e, levels, x.Name, func(x *flowcontrolv1.PriorityLevelConfiguration) {
				x.Spec.Limited.NominalConcurrencyShares = ptr.To[int32](4)
			})
			require.EqualValues(t, 4, *wider.Spec.Limited.NominalConcurrencyShares)

			patch := `{"status":{"conditions":[{"type":"PatchStatus","status":"False","reason":"Patched","message":"by a test","lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`
			p, err := levels.Patch(e.Ctx, x.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
			require.NoError(t, err)
			require.Len(t, p.Status.Conditions, 1)
			u := conformance.UpdateStatus(t, e, levels, x.Name, func(x *flowcontrolv1.PriorityLevelConfiguration) {
				x.Status.Conditions = append(x.Status.Conditions, flowcontrolv1.PriorityLevelConfigurationCondition{Type: "UpdateStatus", Status: "False", Reason: "Updated"})
			})
			require.Len(t, u.Status.Conditions, 2)
			got, err := levels.Get(e.Ctx, x.Name, metav1.GetOptions{})
			require.NoError(t, err)
			require.Equal(t, u.Status, got.Status)
		},
	}.Run(t, e)
}
