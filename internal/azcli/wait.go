package azcli

import (
	"errors"
	"net/http"
	"time"

	"github.com/jmespath/go-jmespath"

	"github.com/cloister-dev/cloister/internal/arm/resourceid"
)

var waitArgs = []arg{
	{name: "created", group: "Wait Condition", help: "Wait until created with 'provisioningState' at 'Succeeded'.", kind: flag},
	{name: "updated", group: "Wait Condition", help: "Wait until updated with provisioningState at 'Succeeded'.", kind: flag},
	{name: "deleted", group: "Wait Condition", help: "Wait until deleted.", kind: flag},
	{name: "exists", group: "Wait Condition", help: "Wait until the resource exists.", kind: flag},
	{name: "custom", group: "Wait Condition", help: "Wait until the condition satisfies a custom JMESPath query. E.g. provisioningState!='InProgress'."},
	{name: "interval", group: "Wait Condition", help: "Polling interval in seconds.", def: "1", kind: number},
	{name: "timeout", group: "Wait Condition", help: "Maximum wait in seconds.", def: "3600", kind: number},
}

// waitFor polls a cluster or pool until it is as asked.
func waitFor(c *call, id resourceid.ID) (any, error) { return waitAt(c, id, aksAPI) }

// waitAt polls a resource until it is as asked, as az does.
func waitAt(c *call, id resourceid.ID, apiVersion string) (any, error) {
	wanted := ""
	for _, w := range []string{"created", "updated", "deleted", "exists", "custom"} {
		if c.has(w) {
			wanted = w
		}
	}
	if wanted == "" {
		return nil, usagef("usage error: --created | --updated | --deleted | --exists | --custom JMESPATH")
	}
	limit := time.Now().Add(time.Duration(c.integer("timeout")) * time.Second)
	for {
		doc, err := c.c.get(c.ctx, id, apiVersion)
		if err != nil && (!IsNotFound(err) || wanted == "updated") {
			return nil, err
		}
		done, failed := reached(c, wanted, doc, err != nil)
		if done || failed != nil {
			return nil, failed
		}
		if time.Now().After(limit) {
			return nil, errors.New("Wait operation timed-out after " + c.get("timeout") + " seconds")
		}
		if err := sleep(c.ctx, time.Duration(c.integer("interval"))*time.Second); err != nil {
			return nil, &interrupted{id, err}
		}
	}
}

// reached tells whether a document is what is waited for.
func reached(c *call, wanted string, doc map[string]any, absent bool) (bool, error) {
	switch wanted {
	case "deleted":
		return absent, nil
	case "exists":
		return !absent, nil
	case "custom":
		if absent {
			return false, nil
		}
		v, err := jmespath.Search(c.get("custom"), flatten(doc))
		if err != nil {
			return false, usagef("argument --custom: invalid jmespath_type value: '%s' (%s)", c.get("custom"), err)
		}
		return v != nil && v != false && v != "", nil
	}
	if absent {
		return false, nil
	}
	p, _ := doc["properties"].(map[string]any)
	switch state, _ := p["provisioningState"].(string); state {
	case "Succeeded", "": // what has no state is what it is
		return true, nil
	case "Failed", "Canceled":
		return false, &Error{Status: http.StatusConflict, Code: "OperationFailed", Message: "The resource is in state " + state + "; `cloister timeline` says why."}
	}
	return false, nil
}
