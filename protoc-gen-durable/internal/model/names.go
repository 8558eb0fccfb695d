package model

import (
	"google.golang.org/protobuf/compiler/protogen"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/gofeaturespb"
)

// A scope holds the names that must differ from one another, and what each is of.
type scope map[string]string

// A goPackage holds the names of a Go package, and those of its objects, which
// are no names of Go but part of many.
type goPackage struct{ names, objects scope }

// A name is a Go name that the generator makes.
type name struct {
	text string
	of   string
	file *protogen.File
	path protoreflect.SourcePath
}

// checkNames looks for names that are declared twice.
func (l *loader) checkNames() {
	packages := map[protogen.GoImportPath]goPackage{}
	for _, f := range l.all {
		pkg, ok := packages[f.ImportPath]
		if !ok {
			pkg = goPackage{scope{}, scope{}}
			packages[f.ImportPath] = pkg
			if l.options.packageSuffix == "" {
				l.declareMessages(pkg.names, f.ImportPath)
			}
		}
		for _, o := range f.Objects {
			l.checkObjectNames(pkg, o)
		}
	}
}

func (l *loader) checkObjectNames(pkg goPackage, o *Object) {
	file, where, of := l.fileOf(o.service.Desc), at(o.service.Location.Path, 1), "object "+o.FullName
	if !l.declare(pkg.objects, name{o.Name, of, file, where}) {
		return // this says more than a dozen names which meet
	}
	for _, text := range []string{
		o.TypeConst(), o.ServiceConst(), o.Tx(), o.View(), o.Turns(), o.Handler(), o.Unimplemented(), o.Factory(), o.Register(),
		o.Client(), o.NewClient(), o.Stub(),
	} {
		l.declare(pkg.names, name{text, of, file, where})
	}
	handlers, calls := scope{}, scope{} // methods of the handler, and of the stub
	var renamed []name
	for _, m := range o.Methods {
		where, of := at(m.method.Location.Path, 1), "method "+string(m.method.Desc.FullName())
		if !l.declare(calls, name{m.Name, of, file, where}) {
			continue
		}
		for _, text := range m.Handlers() {
			l.declare(handlers, name{text, of, file, where})
		}
		l.declare(pkg.names, name{m.ProcedureConst(), of, file, where})
		// The methods of handles that find connections end as no other method of
		// a handle does, so they meet none.
		switch c := m.Connection; {
		case c != nil:
			for _, text := range []string{c.Type(), c.ViewType(), c.SetType(), c.ViewSetType()} {
				l.declare(pkg.names, name{text, of, file, where})
			}
		case m.Shape != Unary:
			l.declare(pkg.names, name{m.Stream(), of, file, where})
		}
		if m.StubName != m.Name {
			renamed = append(renamed, name{m.StubName, of, file, where})
		}
	}
	for _, n := range renamed {
		l.declare(calls, n)
	}
	l.checkAlarmNames(pkg, handlers, file, o)
}

func (l *loader) checkAlarmNames(pkg goPackage, handlers scope, file *protogen.File, o *Object) {
	for _, a := range o.Alarms {
		of := a.What() + " of " + o.FullName
		if !l.declare(handlers, name{a.Handler(), of, file, a.path}) {
			continue
		}
		l.declare(pkg.names, name{a.Info(), of, file, a.path})
		if a.Name != "" {
			l.declare(pkg.names, name{a.NameConst(), of, file, a.path})
		}
	}
	if named := o.NamedAlarms(); len(named) > 0 {
		for _, text := range []string{o.AlarmSet(), o.AlarmViewSet()} {
			l.declare(pkg.names, name{text, "object " + o.FullName, file, named[0].path})
		}
	}
}

// declare adds a name to a scope, and reports whether it is new. What is wrong in
// a file that is not to generate is told when it is.
func (l *loader) declare(s scope, n name) bool {
	other, taken := s[n.text]
	if !taken {
		s[n.text] = n.of
	} else if n.file.Generate {
		l.diags.addf(n.file.Proto, n.path, NameCollision, "%s gets the Go name %s, which %s has already", n.of, n.text, other)
	}
	return !taken
}

// declareMessages adds what protoc-gen-go makes in the package.
func (l *loader) declareMessages(pkg scope, importPath protogen.GoImportPath) {
	for _, file := range l.plugin.Files {
		if file.GoImportPath != importPath {
			continue
		}
		pkg[file.GoDescriptorIdent.GoName] = "the descriptor of " + file.Desc.Path()
		declareEnums(pkg, file.Enums)
		declareExtensions(pkg, "", file.Extensions)
		for m := range messages(file.Messages) {
			pkg[m.GoIdent.GoName] = "message " + string(m.Desc.FullName())
			if m.APILevel != gofeaturespb.GoFeatures_API_OPEN {
				pkg[m.GoIdent.GoName+"_builder"] = "the builder of message " + string(m.Desc.FullName())
			}
			for _, field := range m.Fields {
				if field.Oneof != nil && !field.Oneof.Desc.IsSynthetic() {
					pkg[field.GoIdent.GoName] = "oneof field " + string(field.Desc.FullName())
				}
			}
			declareEnums(pkg, m.Enums)
			declareExtensions(pkg, m.GoIdent.GoName+"_", m.Extensions)
		}
	}
}

func declareEnums(pkg scope, enums []*protogen.Enum) {
	for _, enum := range enums {
		what := "enum " + string(enum.Desc.FullName())
		pkg[enum.GoIdent.GoName] = what
		pkg[enum.GoIdent.GoName+"_name"] = "the names of " + what
		pkg[enum.GoIdent.GoName+"_value"] = "the values of " + what
		for _, value := range enum.Values {
			pkg[value.GoIdent.GoName] = "value " + string(value.Desc.FullName())
		}
	}
}

func declareExtensions(pkg scope, parent string, extensions []*protogen.Extension) {
	for _, ext := range extensions {
		pkg["E_"+parent+ext.GoName] = "extension " + string(ext.Desc.FullName())
	}
}
