package resourcemanager

import (
	"encoding/json"
	"strings"

	"github.com/cloister-dev/cloister/internal/arm/armerror"
	"github.com/cloister-dev/cloister/internal/arm/odatafilter"
	"github.com/cloister-dev/cloister/internal/arm/resourcestore"
)

// matcher is a $filter on resources: any property by its path (properties/x), the words of ARM's resource
// list (resourceType, resourceGroup), and tagName with tagValue.
func matcher(filter string) (func(resourcestore.Resource) bool, error) {
	f, err := odatafilter.Parse(filter)
	if err != nil {
		return nil, armerror.New("InvalidFilterInQueryString", "Invalid $filter '%s' specified in the query string: %v.", filter, err)
	}
	tagName, byTag := f.Equals("tagName")
	return func(r resourcestore.Resource) bool {
		if f == nil {
			return true
		}
		var body map[string]any
		if json.Unmarshal(r.Body, &body) != nil {
			return false
		}
		tags, _ := body["tags"].(map[string]any)
		return f.Match(odatafilter.Names{Value: func(path string) (string, bool) {
			switch strings.ToLower(path) {
			case "resourcetype":
				return r.ID.Type(), true
			case "resourcegroup":
				return r.ID.ResourceGroup(), true
			case "tagname":
				_, has := tags[tagName]
				return tagName, byTag && has
			case "tagvalue":
				v, has := tags[tagName].(string)
				return v, byTag && has
			case "cloister":
				return "", false
			}
			var v any = body
			for i, p := range strings.Split(path, "/") {
				m, _ := v.(map[string]any)
				if i == 0 && strings.EqualFold(p, "cloister") {
					return "", false
				}
				if v = m[p]; v == nil {
					return "", false
				}
			}
			switch v := v.(type) {
			case string:
				return v, true
			case bool:
				if v {
					return "true", true
				}
				return "false", true
			}
			return "", false
		}})
	}, nil
}
