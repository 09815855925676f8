package resourcetype

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

type element struct {
	Name   string `json:"name,omitempty"`
	Prefix string `json:"prefix,omitempty"`
	Extra  string `json:"extra,omitempty"`
}

type sample struct {
	Location   string            `json:"location,omitempty"`
	Tags       map[string]string `json:"tags,omitempty"`
	Properties struct {
		Number   int       `json:"number,omitempty"`
		On       bool      `json:"on,omitempty"`
		Pointer  *element  `json:"pointer,omitempty"`
		Elements []element `json:"elements,omitempty"`
		Always   []string  `json:"always"`
		Words    []string  `json:"words,omitempty"`
	} `json:"properties"`
}

// merged reads raw, lets change work on the model, and returns the document that comes of it.
func merged(t *testing.T, raw string, change func(*sample)) string {
	t.Helper()
	m, err := object([]byte(raw))
	if err != nil {
		t.Fatal(err)
	}
	d, err := readDocument[sample](m)
	if err != nil {
		t.Fatal(err)
	}
	change(d.model)
	if _, err := d.merge(); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(d.raw)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestMerge(t *testing.T) {
	for _, c := range []struct {
		name, raw string
		change    func(*sample)
		want      string
	}{
		{"nothing changed", `{"properties":{"always":["a"],"x":1.50,"big":12345678901234567890,"number":0,"words":[]},"kind":null}`, func(*sample) {},
			`{"kind":null,"properties":{"always":["a"],"big":12345678901234567890,"number":0,"words":[],"x":1.50}}`},
		{"what must be there is added", `{}`, func(m *sample) { m.Properties.Always = []string{} }, `{"properties":{"always":[]}}`},
		{"changed and set", `{"properties":{"number":1,"x":{"y":1},"always":[]}}`,
			func(m *sample) { m.Properties.Number, m.Properties.On = 2, true }, `{"properties":{"always":[],"number":2,"on":true,"x":{"y":1}}}`},
		{"emptied", `{"location":"l","properties":{"number":1,"on":true,"pointer":{"name":"p","x":1},"always":[]},"tags":{"a":"b"}}`,
			func(m *sample) {
				m.Location, m.Tags, m.Properties.Number, m.Properties.On, m.Properties.Pointer = "", nil, 0, false, nil
			}, `{"properties":{"always":[]}}`},
		{"map entries", `{"tags":{"a":"1","b":"2"},"properties":{"always":[]}}`,
			func(m *sample) { delete(m.Tags, "a"); m.Tags["c"] = "3" }, `{"properties":{"always":[]},"tags":{"b":"2","c":"3"}}`},
		{"inside an object", `{"properties":{"pointer":{"name":"p","unknown":[1]},"always":[]}}`,
			func(m *sample) { m.Properties.Pointer.Prefix = "q" }, `{"properties":{"always":[],"pointer":{"name":"p","prefix":"q","unknown":[1]}}}`},
		{"named elements moved, changed, added, removed",
			`{"properties":{"elements":[{"name":"A","u":1},{"name":"b","u":2},{"name":"c","u":3}],"always":[]}}`,
			func(m *sample) {
				e := m.Properties.Elements
				m.Properties.Elements = []element{{Name: "new"}, {Name: "c", Prefix: "p"}, e[0]}
			},
			`{"properties":{"always":[],"elements":[{"name":"new"},{"name":"c","prefix":"p","u":3},{"name":"A","u":1}]}}`},
		{"nameless elements", `{"properties":{"elements":[{"prefix":"1","u":1},{"prefix":"2","u":2}],"always":[]}}`,
			func(m *sample) { m.Properties.Elements[1].Extra = "x" },
			`{"properties":{"always":[],"elements":[{"prefix":"1","u":1},{"extra":"x","prefix":"2","u":2}]}}`},
		{"nameless elements, first removed", `{"properties":{"elements":[{"prefix":"1","u":1},{"prefix":"2","u":2}],"always":[]}}`,
			func(m *sample) { m.Properties.Elements = m.Properties.Elements[1:] },
			`{"properties":{"always":[],"elements":[{"prefix":"2","u":2}]}}`},
		{"words", `{"properties":{"words":["a","b"],"always":[]}}`, func(m *sample) { m.Properties.Words = []string{"b", "c"} },
			`{"properties":{"always":[],"words":["b","c"]}}`},
		{"odd spelling", `{"properties":{"NUMBER":1,"always":[]}}`, func(m *sample) { m.Properties.Number = 2 }, `{"properties":{"always":[],"number":2}}`},
		{"null becomes something", `{"properties":{"pointer":null,"always":[]}}`, func(m *sample) { m.Properties.Pointer = &element{Name: "p"} },
			`{"properties":{"always":[],"pointer":{"name":"p"}}}`},
	} {
		if got := merged(t, c.raw, c.change); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestMergePatch(t *testing.T) {
	for _, c := range []struct{ target, patch, want string }{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`},
		{`{"a":[1]}`, `{"a":[2,3]}`, `{"a":[2,3]}`},
		{`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":[1]}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		{`{"tags":{"old":"1"},"properties":{"tags":{"old":"1"}}}`, `{"tags":{"new":"2"},"properties":{"tags":{"new":"2"}}}`,
			`{"properties":{"tags":{"new":"2","old":"1"}},"tags":{"new":"2"}}`},
	} {
		target, _ := object([]byte(c.target))
		patch, _ := object([]byte(c.patch))
		b, err := json.Marshal(mergePatch(target, patch, true))
		if err != nil || string(b) != c.want {
			t.Errorf("%s patched with %s is %s, want %s", c.target, c.patch, b, c.want)
		}
	}
}

func TestContains(t *testing.T) {
	document := `{"id":"/subscriptions/S/x","n":1,"list":[{"name":"B","x":1,"y":2},{"name":"a"}],"plain":["p","q"],"o":{"k":"v"}}`
	for want, is := range map[string]bool{
		`{}`:                          true,
		`{"n":1}`:                     true,
		`{"n":2}`:                     false,
		`{"id":"/SUBSCRIPTIONS/s/X"}`: false,
		`{"id":"/subscriptions/s/X"}`: true,
		`{"list":[{"name":"A"},{"name":"b","x":1}]}`:                true,
		`{"list":[{"name":"a"}]}`:                                   false,
		`{"plain":["p","q"]}`:                                       true,
		`{"plain":["q","p"]}`:                                       false,
		`{"absent":"","gone":[],"none":{},"off":false,"null":null}`: true,
		`{"absent":"x"}`:                                            false,
		`{"o":{"K":"v"}}`:                                           true,
		`{"o":{"k":"v","l":1}}`:                                     false,
		`not json`:                                                  false,
	} {
		if got := Contains(json.RawMessage(document), json.RawMessage(want)); got != is {
			t.Errorf("contains %s: %v, want %v", want, got, is)
		}
	}
}

func TestParseBody(t *testing.T) {
	got, err := ParseBody(json.RawMessage(`{"ID":"/x","Name":"n","Etag":"e","SYSTEMDATA":{},"Cloister":{"a":1},"cloister":{"b":2},
		"Location":"l","Properties":{"ProvisioningState":"Succeeded","provisioningstate":"x","Kept":1},"Other":true}`))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"location": "l", "properties": map[string]any{"Kept": json.Number("1")}, "Other": true}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for _, bad := range []string{``, ` `, `[]`, `1`, `null`, `{"a":1}{}`, `{"a":1} x`, `{`, strings.Repeat(`{"a":`, 20000)} {
		if _, err := ParseBody(json.RawMessage(bad)); err == nil {
			t.Errorf("%.20q is taken for a document", bad)
		}
	}
}

func TestDefinePanics(t *testing.T) {
	impossible := map[string]func(){
		"name":        func() { Define(Spec[sample]{Name: "things"}) },
		"model":       func() { Define(Spec[struct{ Wrong int }]{Name: "Microsoft.X/ys"}) },
		"no struct":   func() { Define(Spec[string]{Name: "Microsoft.X/ys"}) },
		"synchronous": func() { Define(Spec[sample]{Name: "Microsoft.X/ys", Synchronous: true}) },
		"action":      func() { Define(Spec[sample]{Name: "Microsoft.X/ys", Actions: map[string]Action[sample]{"a": {}}}) },
		"state":       func() { Define(Spec[sample]{Name: "Microsoft.X/ys", Creating: "Making"}) },
		"endpoint":    func() { DefineEndpoint(Endpoint{Name: "Microsoft.X/ys"}) },
		"twice": func() {
			NewTypes(Define(Spec[sample]{Name: "Microsoft.X/ys"}), Define(Spec[sample]{Name: "microsoft.x/YS"}))
		},
	}
	for name, define := range impossible {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: an impossible type is accepted", name)
				}
			}()
			define()
		}()
	}
}

// No body may keep a processor busy for long, however it is made. At this size a lookup that looks at all keys for
// each key takes minutes, and one that does not a fraction of a second, or seconds under the race detector.
func TestLargeBodies(t *testing.T) {
	const n = 60_000
	keys, tags := make(map[string]any, n), make(map[string]any, n)
	elements := make([]any, 0, n/3)
	for i := range n {
		keys[fmt.Sprint("k", i)] = json.Number("1")
		tags[fmt.Sprint("K", i)] = ""
		if i%3 == 0 {
			elements = append(elements, map[string]any{"prefix": fmt.Sprint(i)})
		}
	}
	start := time.Now()
	mergePatch(keys, tags, true)
	mergeModel(keys, map[string]any{}, tags)
	contains(keys, tags)
	changed := slices.Clone(elements)
	changed[0] = map[string]any{"prefix": "changed"}
	mergeArray(elements, elements, changed)
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}

// Whatever a client sends either is refused or can be read, merged without a change, and shown again.
func FuzzDocument(f *testing.F) {
	for _, s := range []string{`{}`, `{"properties":{"elements":[{"name":"a"},{"name":"A"}]}}`, `{"tags":{"":""},"Tags":1}`, `{"properties":{"elements":[null,{}]}}`, `{"properties":null}`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseBody(json.RawMessage(s))
		if err != nil {
			return
		}
		for _, k := range readOnly {
			for have := range m {
				if strings.EqualFold(have, k) {
					t.Fatalf("%q gets past the filter", have)
				}
			}
		}
		if twoSpellings(m) {
			return
		}
		if !Contains(mustMarshal(t, m), mustMarshal(t, m)) {
			t.Fatalf("%s does not contain itself", s)
		}
		d, err := readDocument[sample](m)
		if err != nil {
			return
		}
		before := mustMarshal(t, m)
		if changed, err := d.merge(); err != nil || changed {
			t.Fatalf("an untouched model changed: %v, %v", changed, err)
		}
		if !Contains(mustMarshal(t, d.raw), before) {
			t.Fatalf("%s became %s", before, mustMarshal(t, d.raw))
		}
		d.model.Properties.Elements = append(d.model.Properties.Elements, element{Name: "one more"})
		if _, err := d.merge(); err != nil {
			t.Fatal(err)
		}
	})
}

// Merging a patch twice is merging it once.
func FuzzMergePatch(f *testing.F) {
	f.Add(`{"a":{"b":1}}`, `{"a":{"b":null,"c":[1]}}`)
	f.Add(`{"A":1}`, `{"a":{"b":2}}`)
	f.Fuzz(func(t *testing.T, target, patch string) {
		a, err1 := object([]byte(target))
		p, err2 := object([]byte(patch))
		if err1 != nil || err2 != nil || twoSpellings(a) || twoSpellings(p) {
			return
		}
		once := mergePatch(a, p, true)
		if twice := mergePatch(once, p, true); !reflect.DeepEqual(once, twice) {
			t.Fatalf("%s patched with %s is %v and then %v", target, patch, once, twice)
		}
	})
}

// twoSpellings reports whether an object has one property in two spellings: which of them a patch means is
// not defined.
func twoSpellings(v any) bool {
	m, ok := v.(map[string]any)
	if !ok {
		return false
	}
	var seen []string
	for k, inner := range m {
		if twoSpellings(inner) || slices.ContainsFunc(seen, func(s string) bool { return strings.EqualFold(s, k) }) {
			return true
		}
		seen = append(seen, k)
	}
	return false
}

func mustMarshal(t *testing.T, v any) json.RawMessage {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
