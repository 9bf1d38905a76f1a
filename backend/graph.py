"""A net's graph as text, for a backend that does not run Gluon: MXNet's JSON with the parameters' structural names."""
import json

# Attributes of a parameter's node: its structural name, and whether nothing trains it.
PATH, FROZEN = "__path__", "__frozen__"


def graph_of(net):
    """The graph of a Gluon net that takes images, as text. Needs MXNet."""
    import mxnet as mx

    from model.graph import json_of

    graph = json.loads(json_of(net(mx.sym.var("data"))))
    parameters = {parameter.name: (path, parameter) for path, parameter in net._collect_params_with_prefix().items()}
    for node in graph["nodes"]:
        if node["name"] in parameters:
            path, parameter = parameters[node["name"]]
            node["attrs"][PATH] = path
            if parameter.grad_req == "null":
                node["attrs"][FROZEN] = "1"
    return json.dumps(graph)
