package resourcetype

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
)

// topLevel are the envelope's properties, spelled as ARM does (common types, "TrackedResource").
var topLevel = []string{"id", "name", "type", "location", "tags", "identity", "sku", "kind", "zones", "plan", "managedBy", "extendedLocation", "properties", "etag", "systemData", "cloister"}

// readOnly are those that no client writes.
var readOnly = []string{"id", "name", "type", "etag", "systemData", "cloister"}

// ParseBody reads what a client sent as a document, without what a client may not write.
//
// encoding/json matches property names in any case, so the envelope is brought to its own spelling
// first: otherwise "Cloister" would pass the filter and still reach the model.
func ParseBody(sent json.RawMessage) (map[string]any, error) {
	if len(bytes.TrimSpace(sent)) == 0 {
		return nil, armerror.New(armerror.InvalidRequestContent, "The request content was invalid and could not be deserialized: 'the body is empty'.")
	}
	m, err := object(sent)
	if err != nil {
		return nil, armerror.New(armerror.InvalidRequestContent, "The request content was invalid and could not be deserialized: '%v'.", err)
	}
	out := make(map[string]any, len(m))
	for k, v := range m {
		name := k
		for _, t := range topLevel {
			if strings.EqualFold(t, k) {
				name = t
			}
		}
		if _, exact := m[name]; name != k && exact {
			continue
		}
		out[name] = v
	}
	for _, k := range readOnly {
		delete(out, k)
	}
	if p, ok := out["properties"].(map[string]any); ok {
		clean := make(map[string]any, len(p))
		for k, v := range p {
			if !strings.EqualFold(k, "provisioningState") {
				clean[k] = v
			}
		}
		out["properties"] = clean
	}
	return out, nil
}

// State is a document's properties.provisioningState.
func State(body json.RawMessage) string {
	var d struct {
		Properties struct {
			ProvisioningState string `json:"provisioningState"`
		} `json:"properties"`
	}
	if json.Unmarshal(body, &d) != nil {
		return ""
	}
	return d.Properties.ProvisioningState
}

// WithState is the document with that properties.provisioningState; "" takes it away.
func WithState(body json.RawMessage, state string) (json.RawMessage, error) {
	m, err := object(body)
	if err != nil {
		return nil, err
	}
	p, _ := m["properties"].(map[string]any)
	if p == nil {
		if state == "" {
			return body, nil
		}
		p = map[string]any{}
	}
	delete(p, spelling(p, "provisioningState"))
	if state != "" {
		p["provisioningState"] = state
	}
	m["properties"] = p
	return json.Marshal(m)
}

// Equal reports whether two documents are the same but for their provisioning state.
func Equal(a, b json.RawMessage) bool {
	x, err1 := WithState(a, "")
	y, err2 := WithState(b, "")
	if err1 != nil || err2 != nil {
		return false
	}
	v, err1 := decodeAny(x)
	w, err2 := decodeAny(y)
	return err1 == nil && err2 == nil && reflect.DeepEqual(v, w)
}

// decodeModel reads a document into a model.
func decodeModel[M any](m map[string]any) (*M, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	model := new(M)
	if err := json.Unmarshal(b, model); err != nil {
		return nil, armerror.New(armerror.InvalidRequestContent, "The request content was invalid and could not be deserialized: '%v'.", err)
	}
	return model, nil
}
