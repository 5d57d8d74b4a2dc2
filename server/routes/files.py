"""/v1/files: uploads, and the outputs of batches. Each key sees its own."""

import msgspec
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from schemas.errors import Unavailable
from schemas.openai.files import FileDeleted, FilesQuery, Page, parse_query
from server.admission import Admission
from server.files.store import FileStore
from server.files.upload import receive_upload
from server.fleet import Fleet
from server.json_body import IDLE_S, paced_chunks

DOWNLOAD_HEADERS = {"content-disposition": "attachment", "x-content-type-options": "nosniff"}
"""A browser must never take a client's file for a page of this server's."""


def files_router(fleet: Fleet, admission: Admission, files: FileStore, max_file_bytes: int) -> APIRouter:
    """The routes of files."""
    router = APIRouter()

    @router.post("/v1/files")
    async def upload_file(request: Request) -> Response:
        if fleet.is_draining:
            raise Unavailable("The server is about to leave.")
        tenant = request.state.tenant
        with admission.place(tenant):
            chunks = paced_chunks(request, IDLE_S)
            record = await receive_upload(request, chunks, files, tenant, max_file_bytes)
        return _json(record.wire())

    @router.get("/v1/files")
    async def list_files(request: Request) -> Response:
        query = parse_query(FilesQuery, request.query_params.multi_items())
        found, has_more = await files.list(request.state.tenant, query)
        return _json(page_of([file.wire() for file in found], has_more))

    @router.get("/v1/files/{file_id}")
    async def get_file(request: Request, file_id: str) -> Response:
        return _json((await files.get(file_id, request.state.tenant)).wire())

    @router.get("/v1/files/{file_id}/content")
    async def get_content(request: Request, file_id: str) -> Response:
        file = await files.get(file_id, request.state.tenant)
        return FileResponse(files.path(file.id), headers=DOWNLOAD_HEADERS, media_type="application/octet-stream")

    @router.delete("/v1/files/{file_id}")
    async def delete_file(request: Request, file_id: str) -> Response:
        await files.delete(file_id, request.state.tenant)
        return _json(FileDeleted(id=file_id))

    return router


def page_of(data: list[msgspec.Struct], has_more: bool) -> Page:
    """A part of a list of objects that have ids."""
    ids = [getattr(one, "id", None) for one in data]
    return Page(data=data, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=has_more)


def _json(answer: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(answer), media_type="application/json")
