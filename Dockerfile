FROM python:3.11-slim

RUN useradd --create-home playground
WORKDIR /home/playground/app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY --chown=playground . .
USER playground

# Models, runs and the store live here: mount a volume to keep them.
ENV PLAYGROUND_HOME=/home/playground/data
RUN mkdir -p /home/playground/data
VOLUME /home/playground/data
EXPOSE 7860
CMD ["python", "app.py"]
